#pragma once

// `mayfly generate`: one prompt, one continuation, streamed as it comes.

#include <string>
#include <vector>

#include "client/command.h"
#include "client/command_session.h"
#include "client/session_flags.h"

namespace mayfly::cli {

class GenerateCommand final : public Command {
 public:
  GenerateCommand();

  std::vector<FlagGroup> Flags() override;
  absl::Status SetArguments(const std::vector<std::string>& arguments) override;
  absl::Status Run(Environment& env) override;

 private:
  absl::StatusOr<std::string> Prompt(Environment& env) const;
  void WriteUpdate(const v1::Update& update, Environment& env);
  void WriteSummary(const ResumingSession& session, const v1::Generated& generated,
                    Environment& env) const;

  std::string prompt_;
  std::string file_;
  v1::Open open_;
  v1::Generate generate_;
  KeepFlags keep_;
  OutputFlags output_;

  UpdateCount updates_;
};

}  // namespace mayfly::cli
