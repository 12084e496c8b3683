#include "tests/load/connection.h"

#include "absl/strings/str_cat.h"
#include "client/session_flags.h"
#include "engine/base/loopback.h"
#include "engine/base/status_macros.h"

namespace mayfly::load {
namespace {

constexpr uint32_t kMaxConnections = 256;

}  // namespace

cli::FlagGroup ConnectionFlagGroup(ConnectionFlags* target) {
  cli::FlagGroup group{"Server", cli::ServerFlags(&target->server)};
  group.flags.push_back(cli::NumberFlag("connections", "TCP connections that streams share (4)",
                                        &target->connections));
  group.flags.push_back(cli::SwitchFlag("allow_remote", "the server may be on another machine",
                                        &target->allow_remote));
  return group;
}

absl::StatusOr<Channels> Connect(const ConnectionFlags& flags) {
  if (!flags.allow_remote && !IsLoopback(flags.server.address)) {
    return absl::InvalidArgumentError(absl::StrCat("--server ", flags.server.address,
                                                   " is not on this machine; load another's with ",
                                                   "--allow_remote, and only if it is yours"));
  }
  if (flags.connections == 0 || flags.connections > kMaxConnections) {
    return absl::InvalidArgumentError(
        absl::StrCat("--connections takes 1 to ", kMaxConnections, ", not ", flags.connections));
  }
  Channels channels;
  for (uint32_t i = 0; i < flags.connections; ++i) {
    MAYFLY_ASSIGN_OR_RETURN(auto channel, CreateChannel(flags.server));
    channels.push_back(std::move(channel));
  }
  return channels;
}

}  // namespace mayfly::load
