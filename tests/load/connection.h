#pragma once

// How the harness reaches a server: where, over what, and as whom.

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/flags.h"
#include "grpcpp/channel.h"

namespace mayfly::load {

struct ConnectionFlags {
  std::string server = "127.0.0.1:7400";
  // Streams share these.
  uint32_t connections = 4;
  bool allow_remote = false;
  // Empty: plaintext.
  std::string tls_ca;
  // Empty: no token is sent.
  std::string token_file;
};

cli::FlagGroup ConnectionFlagGroup(ConnectionFlags* target);

// Whether `address` cannot leave this machine.
bool IsLoopback(absl::string_view address);

struct Connection {
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  std::string token;
};

// Channels with a TCP connection each; they connect when first used.
absl::StatusOr<Connection> Connect(const ConnectionFlags& flags);

}  // namespace mayfly::load
