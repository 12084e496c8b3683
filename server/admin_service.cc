#include "server/admin_service.h"

#include <utility>

#include "engine/base/status_macros.h"
#include "server/convert.h"
#include "server/grpc_status.h"

namespace mayfly {
namespace {

// Whose sessions the caller sees; nothing: everybody's.
std::optional<std::string> Scope(const Caller& caller) {
  if (caller.admin) return std::nullopt;
  return caller.client.tenant;
}

absl::Status NoSuchSession() { return absl::NotFoundError("there is no such session"); }

}  // namespace

AdminService::AdminService(SessionManager* manager, const Authenticator* auth,
                           std::function<double()> start_drain, ServerMetrics* metrics,
                           const Logger* logger)
    : manager_(manager),
      auth_(auth),
      start_drain_(std::move(start_drain)),
      metrics_(metrics),
      logger_(logger) {}

grpc::ServerUnaryReactor* AdminService::ListSessions(grpc::CallbackServerContext* context,
                                                     const v1::ListSessionsRequest*,
                                                     v1::ListSessionsResponse* response) {
  return Answer(context, RpcMethod::kListSessions, [&](const Caller& caller) {
    for (const SessionInfo& info : manager_->List(Scope(caller))) {
      *response->add_sessions() = ToProto(info);
    }
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminService::GetSession(grpc::CallbackServerContext* context,
                                                   const v1::GetSessionRequest* request,
                                                   v1::GetSessionResponse* response) {
  return Answer(context, RpcMethod::kGetSession, [&](const Caller& caller) {
    MAYFLY_ASSIGN_OR_RETURN(const auto session, Find(caller, request->session_id()));
    const std::optional<SessionInfo> info = session->Info();
    if (!info) return NoSuchSession();
    *response->mutable_session() = ToProto(*info);
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminService::TerminateSession(grpc::CallbackServerContext* context,
                                                         const v1::TerminateSessionRequest* request,
                                                         v1::TerminateSessionResponse*) {
  return Answer(context, RpcMethod::kTerminateSession, [&](const Caller& caller) {
    MAYFLY_ASSIGN_OR_RETURN(const auto session, Find(caller, request->session_id()));
    logger_->Info("session_terminated", {{"session", session->id()},
                                         {"by_tenant", caller.client.tenant},
                                         {"by_peer", caller.client.peer}});
    session->End(CloseReason::kTerminated,
                 absl::AbortedError("the session was terminated through AdminService"));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminService::Drain(grpc::CallbackServerContext* context,
                                              const v1::DrainRequest*,
                                              v1::DrainResponse* response) {
  return Answer(context, RpcMethod::kDrain, [&](const Caller& caller) {
    if (!caller.admin) return absl::PermissionDeniedError("only an admin token may drain");
    logger_->Info("drain_requested",
                  {{"by_tenant", caller.client.tenant}, {"by_peer", caller.client.peer}});
    response->set_deadline(start_drain_());
    response->set_open_sessions(static_cast<uint32_t>(manager_->open_sessions()));
    return absl::OkStatus();
  });
}

grpc::ServerUnaryReactor* AdminService::Answer(grpc::CallbackServerContext* context,
                                               RpcMethod method, const Handler& handler) {
  const absl::StatusOr<Caller> caller = auth_->Authenticate(*context);
  const grpc::Status status = ToGrpcStatus(caller.ok() ? handler(*caller) : caller.status());
  metrics_->CountHandled(method, status);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(status);
  return reactor;
}

absl::StatusOr<std::shared_ptr<Session>> AdminService::Find(const Caller& caller,
                                                            const std::string& id) const {
  std::shared_ptr<Session> session = manager_->Find(id, Scope(caller));
  if (session == nullptr) return NoSuchSession();
  return session;
}

}  // namespace mayfly
