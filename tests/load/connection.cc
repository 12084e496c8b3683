#include "tests/load/connection.h"

#include <iostream>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "client/document.h"
#include "engine/base/status_macros.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/channel_arguments.h"

namespace mayfly::load {
namespace {

constexpr uint32_t kMaxConnections = 256;

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(const std::string& tls_ca) {
  if (tls_ca.empty()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  MAYFLY_ASSIGN_OR_RETURN(options.pem_root_certs, cli::ReadDocument(tls_ca, std::cin));
  return grpc::SslCredentials(options);
}

}  // namespace

cli::FlagGroup ConnectionFlagGroup(ConnectionFlags* target) {
  return {
      "Server",
      {cli::TextFlag("server", "ADDR", "server to load (127.0.0.1:7400)", &target->server),
       cli::NumberFlag("connections", "TCP connections that streams share (4)",
                       &target->connections),
       cli::SwitchFlag("allow_remote", "the server may be on another machine",
                       &target->allow_remote),
       cli::TextFlag("tls_ca", "FILE", "certificates to trust; absent: plaintext", &target->tls_ca),
       cli::TextFlag("token_file", "FILE", "file with the bearer token", &target->token_file)}};
}

bool IsLoopback(absl::string_view address) {
  if (absl::StartsWith(address, "unix:")) return true;
  const absl::string_view host = address.substr(0, address.rfind(':'));
  if (host == "localhost" || host == "[::1]") return true;
  // A name may begin with digits too.
  return absl::StartsWith(host, "127.") && host.find_first_not_of("0123456789.") == host.npos;
}

absl::StatusOr<Connection> Connect(const ConnectionFlags& flags) {
  if (!flags.allow_remote && !IsLoopback(flags.server)) {
    return absl::InvalidArgumentError(absl::StrCat("--server ", flags.server,
                                                   " is not on this machine; load another's with ",
                                                   "--allow_remote, and only if it is yours"));
  }
  if (flags.connections == 0 || flags.connections > kMaxConnections) {
    return absl::InvalidArgumentError(
        absl::StrCat("--connections takes 1 to ", kMaxConnections, ", not ", flags.connections));
  }
  Connection connection;
  if (!flags.token_file.empty()) {
    MAYFLY_ASSIGN_OR_RETURN(const std::string token, cli::ReadDocument(flags.token_file, std::cin));
    connection.token = std::string(absl::StripAsciiWhitespace(token));
  }
  MAYFLY_ASSIGN_OR_RETURN(const auto credentials, Credentials(flags.tls_ca));
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  for (uint32_t i = 0; i < flags.connections; ++i) {
    connection.channels.push_back(grpc::CreateCustomChannel(flags.server, credentials, arguments));
  }
  return connection;
}

}  // namespace mayfly::load
