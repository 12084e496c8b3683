#pragma once

// One gRPC listener with its services. Owned by the Server; started and shut down by the main
// thread.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/log.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/server.h"

namespace mayfly {

class GrpcServer {
 public:
  struct Options {
    // host:port or unix:path; port 0 lets the system choose.
    std::string address;
    // Null: plaintext.
    std::shared_ptr<grpc::ServerCredentials> credentials = nullptr;
    int32_t max_message_bytes = 1 << 20;
    // A connection this old takes no new calls, and those that it carries are cut off after the
    // grace; gRPC varies the age by a tenth. 0: no bound.
    double max_connection_age_seconds = 0;
    double max_connection_age_grace_seconds = 0;
  };
  // What gRPC is asked for beside the defaults, by its GRPC_ARG_ names.
  static std::map<std::string, int> ChannelArguments(const Options& options);

  // Listens and serves. The services and the logger outlive the server.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      const Options& options, const std::vector<grpc::Service*>& services, const Logger* logger);
  ~GrpcServer();

  // Where it listens, with the port that was chosen.
  const std::string& address() const { return address_; }

  // Stops listening, and cancels the calls that are left after `grace_seconds`. If a call then
  // never ends, the process does: waiting would take for ever. Safe to call twice.
  void Shutdown(double grace_seconds);

 private:
  GrpcServer(std::unique_ptr<grpc::Server> server, std::string address, const Logger* logger);

  const std::unique_ptr<grpc::Server> server_;
  const std::string address_;
  const Logger* const logger_;
};

}  // namespace mayfly
