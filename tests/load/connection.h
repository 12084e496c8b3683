#pragma once

// How the harness reaches a server: where, over what, and as whom.

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "client/channel.h"
#include "client/flags.h"
#include "grpcpp/channel.h"

namespace mayfly::load {

struct ConnectionFlags {
  ChannelOptions server = {.address = "127.0.0.1:7400"};
  // Streams share these.
  uint32_t connections = 4;
  bool allow_remote = false;
};

cli::FlagGroup ConnectionFlagGroup(ConnectionFlags* target);

using Channels = std::vector<std::shared_ptr<grpc::Channel>>;

// Channels with a TCP connection each; they connect when first used.
absl::StatusOr<Channels> Connect(const ConnectionFlags& flags);

}  // namespace mayfly::load
