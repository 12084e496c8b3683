#include "server/grpc_server.h"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "grpcpp/ext/proto_server_reflection_plugin.h"
#include "grpcpp/health_check_service_interface.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server_builder.h"
#include "server/watchdog.h"

namespace mayfly {
namespace {

// Between a cancelled call and its last reaction.
constexpr double kReactionSeconds = 10;

// gRPC's own word for "no bound" is the largest number.
int BoundMilliseconds(double seconds) {
  const double milliseconds = seconds * 1000;
  if (seconds == 0 || milliseconds >= std::numeric_limits<int>::max()) {
    return std::numeric_limits<int>::max();
  }
  return std::max(1, static_cast<int>(milliseconds));
}

std::string WithPort(const std::string& address, int port) {
  if (absl::StartsWith(address, "unix:")) return address;
  return absl::StrCat(absl::string_view(address).substr(0, address.rfind(':') + 1), port);
}

}  // namespace

// A client that vanished without a word is noticed within KEEPALIVE_TIME + KEEPALIVE_TIMEOUT; one
// that pings to keep its own way open may do so every ten seconds.
std::map<std::string, int> GrpcServer::ChannelArguments(const Options& options) {
  return {
      {GRPC_ARG_KEEPALIVE_TIME_MS, 60'000},
      {GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000},
      {GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1},
      {GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10'000},
      {GRPC_ARG_MAX_CONNECTION_AGE_MS, BoundMilliseconds(options.max_connection_age_seconds)},
      {GRPC_ARG_MAX_CONNECTION_AGE_GRACE_MS,
       BoundMilliseconds(options.max_connection_age_grace_seconds)},
      // By default a second server may listen on the same port, and each gets some of the
      // connections.
      {GRPC_ARG_ALLOW_REUSEPORT, 0},
  };
}

absl::StatusOr<std::unique_ptr<GrpcServer>> GrpcServer::Start(
    const Options& options, const std::vector<grpc::Service*>& services, const Logger* logger) {
  grpc::EnableDefaultHealthCheckService(false);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  int port = 0;
  const auto plaintext = grpc::InsecureServerCredentials();
  builder.AddListeningPort(options.address, options.credentials ? options.credentials : plaintext,
                           &port);
  for (const auto& [name, value] : ChannelArguments(options)) {
    builder.AddChannelArgument(name, value);
  }
  builder.SetMaxReceiveMessageSize(options.max_message_bytes);
  for (grpc::Service* service : services) builder.RegisterService(service);
  std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", options.address,
                                               ": the address is in use or is not this machine's"));
  }
  return std::unique_ptr<GrpcServer>(
      new GrpcServer(std::move(server), WithPort(options.address, port), logger));
}

GrpcServer::GrpcServer(std::unique_ptr<grpc::Server> server, std::string address,
                       const Logger* logger)
    : server_(std::move(server)), address_(std::move(address)), logger_(logger) {}

GrpcServer::~GrpcServer() { Shutdown(0); }

void GrpcServer::Shutdown(double grace_seconds) {
  const Watchdog watchdog(grace_seconds + kReactionSeconds, [this] {
    logger_->Error("a call never ended; leaving without it", {{"address", address_}});
    std::_Exit(1);
  });
  const auto grace = std::chrono::duration_cast<std::chrono::system_clock::duration>(
      std::chrono::duration<double>(grace_seconds));
  server_->Shutdown(std::chrono::system_clock::now() + grace);
}

}  // namespace mayfly
