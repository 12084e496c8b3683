#pragma once

// `mayfly info`: what a server runs, what it allows, and how much room it has.

#include <string>
#include <vector>

#include "client/command.h"
#include "client/session_flags.h"

namespace mayfly::cli {

class InfoCommand final : public Command {
 public:
  std::vector<FlagGroup> Flags() override;
  absl::Status SetArguments(const std::vector<std::string>& arguments) override;
  absl::Status Run(Environment& env) override;

 private:
  OutputFlags output_;
};

}  // namespace mayfly::cli
