#pragma once

// `mayfly sessions`: what sessions the server has, once or again and again, and the end of one.

#include <string>
#include <vector>

#include "client/command.h"
#include "client/session_flags.h"
#include "mayfly/v1/admin_service.grpc.pb.h"

namespace mayfly::cli {

class SessionsCommand final : public Command {
 public:
  std::vector<FlagGroup> Flags() override;
  absl::Status SetArguments(const std::vector<std::string>& arguments) override;
  absl::Status Run(Environment& env) override;

 private:
  using Stub = v1::AdminService::Stub;

  absl::Status End(Stub& stub, Environment& env) const;
  absl::Status Show(Stub& stub, Environment& env) const;
  // Shows until interrupted.
  absl::Status Watch(Stub& stub, Environment& env) const;

  OutputFlags output_;
  bool watch_ = false;
  uint32_t interval_seconds_ = 2;
  // Empty: show.
  std::string end_id_;
};

}  // namespace mayfly::cli
