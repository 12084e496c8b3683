#pragma once

// The service that operators call: sees, ends and drains sessions. A caller that is no admin sees
// its own tenant's sessions alone, and the others as if they were not there. Owned by the Server;
// called on gRPC's threads.

#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/base/log.h"
#include "mayfly/v1/admin_service.grpc.pb.h"
#include "server/auth.h"
#include "server/server_metrics.h"
#include "session/session_manager.h"

namespace mayfly {

class AdminService final : public v1::AdminService::CallbackService {
 public:
  // `start_drain` starts the drain, unless one has begun, and returns its deadline in seconds since
  // the Unix epoch. All pointers outlive the service.
  AdminService(SessionManager* manager, const Authenticator* auth,
               std::function<double()> start_drain, ServerMetrics* metrics, const Logger* logger);

  grpc::ServerUnaryReactor* ListSessions(grpc::CallbackServerContext* context,
                                         const v1::ListSessionsRequest* request,
                                         v1::ListSessionsResponse* response) override;
  grpc::ServerUnaryReactor* GetSession(grpc::CallbackServerContext* context,
                                       const v1::GetSessionRequest* request,
                                       v1::GetSessionResponse* response) override;
  grpc::ServerUnaryReactor* TerminateSession(grpc::CallbackServerContext* context,
                                             const v1::TerminateSessionRequest* request,
                                             v1::TerminateSessionResponse* response) override;
  grpc::ServerUnaryReactor* Drain(grpc::CallbackServerContext* context,
                                  const v1::DrainRequest* request,
                                  v1::DrainResponse* response) override;

 private:
  using Handler = std::function<absl::Status(const Caller&)>;

  // Answers with what `handler` returns, or with UNAUTHENTICATED.
  grpc::ServerUnaryReactor* Answer(grpc::CallbackServerContext* context, RpcMethod method,
                                   const Handler& handler);
  absl::StatusOr<std::shared_ptr<Session>> Find(const Caller& caller, const std::string& id) const;

  SessionManager* const manager_;
  const Authenticator* const auth_;
  const std::function<double()> start_drain_;
  ServerMetrics* const metrics_;
  const Logger* const logger_;
};

}  // namespace mayfly
