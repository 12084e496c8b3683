#pragma once

// How a client reaches a server: in plaintext or TLS, anonymously, with a certificate or with a
// bearer token. Every call on a channel that was made here carries the token. Any thread.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "grpcpp/channel.h"

namespace mayfly {

struct ChannelOptions {
  // host:port or unix:path.
  std::string address = {};
  // PEM file of the certificates that may have signed the server's; empty: plaintext.
  std::string tls_ca = {};
  // PEM files of the client's own certificate, for servers that want one. Both or neither.
  std::string tls_cert = {};
  std::string tls_key = {};
  // File that holds the token and nothing else but white space and # comments; empty: no token.
  std::string token_file = {};
  // Send the token in plaintext to other machines too.
  bool insecure = false;
};

// Connects when first used. Reads the files once. INVALID_ARGUMENT for options that do not fit
// together or a file that cannot be used.
absl::StatusOr<std::shared_ptr<grpc::Channel>> CreateChannel(const ChannelOptions& options);

}  // namespace mayfly
