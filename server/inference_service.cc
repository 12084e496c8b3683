#include "server/inference_service.h"

#include <utility>

#include "server/convert.h"
#include "server/grpc_status.h"
#include "server/session_reactor.h"
#include "server/version.h"

namespace mayfly {
namespace {

// A call that is over before it began.
class RefusedSession final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit RefusedSession(const grpc::Status& status) { Finish(status); }
  void OnDone() noexcept override { delete this; }
};

}  // namespace

InferenceService::InferenceService(const Engine* engine, SessionManager* manager,
                                   const Authenticator* auth, ServerMetrics* metrics,
                                   int32_t max_message_bytes)
    : engine_(engine),
      manager_(manager),
      auth_(auth),
      metrics_(metrics),
      max_message_bytes_(max_message_bytes) {}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* InferenceService::Session(
    grpc::CallbackServerContext* context) {
  absl::StatusOr<Caller> caller = auth_->Authenticate(*context);
  if (caller.ok()) {
    return SessionReactor::Start(context, std::move(caller->client), manager_, metrics_);
  }
  const grpc::Status refused = ToGrpcStatus(caller.status());
  metrics_->CountHandled(RpcMethod::kSession, refused);
  return new RefusedSession(refused);
}

grpc::ServerUnaryReactor* InferenceService::GetServerInfo(grpc::CallbackServerContext* context,
                                                          const v1::GetServerInfoRequest*,
                                                          v1::GetServerInfoResponse* response) {
  const grpc::Status status = ToGrpcStatus(auth_->Authenticate(*context).status());
  if (status.ok()) Describe(response);
  metrics_->CountHandled(RpcMethod::kGetServerInfo, status);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(status);
  return reactor;
}

void InferenceService::Describe(v1::GetServerInfoResponse* response) const {
  const EngineInfo& info = engine_->info();
  response->set_version(Version());
  response->set_device(info.device);
  response->set_dtype(info.dtype);
  *response->mutable_model() = ToProto(info.model);
  WriteLimits(response->mutable_limits());
  *response->mutable_default_adaptation() = ToProto(manager_->DefaultAdaptation());
  *response->mutable_default_sampling() = ToProto(manager_->DefaultSampling());
  response->set_rows_total(info.rows);
  response->set_rows_free(engine_->free_rows());
  *response->mutable_row_bytes() = ToProto(info.row_bytes);
  *response->mutable_memory() = ToProto(info.memory);
}

void InferenceService::WriteLimits(v1::Limits* limits) const {
  const SessionLimits& ours = manager_->limits();
  limits->set_window_tokens(engine_->info().window_tokens);
  limits->set_max_rank(engine_->info().max_rank);
  limits->set_max_update_tokens(engine_->info().max_update_tokens);
  limits->set_max_append_tokens(ours.max_append_tokens);
  limits->set_max_generate_tokens(ours.max_generate_tokens);
  limits->set_max_sessions_per_tenant(ours.max_sessions_per_tenant);
  limits->set_max_message_bytes(max_message_bytes_);
  limits->set_idle_timeout_seconds(ours.idle_timeout_seconds);
  limits->set_max_session_age_seconds(ours.max_session_age_seconds);
  limits->set_admission_wait_seconds(ours.admission_wait_seconds);
  limits->set_max_tokens_per_minute_per_tenant(ours.max_tokens_per_minute_per_tenant);
  limits->set_max_outstanding_commands(ours.max_outstanding_commands);
  limits->set_slow_reader_timeout_seconds(ours.slow_reader_timeout_seconds);
}

}  // namespace mayfly
