#include "server/inference_service.h"

#include "server/convert.h"
#include "server/session_reactor.h"
#include "server/version.h"

namespace mayfly {

InferenceService::InferenceService(const Engine* engine, SessionManager* manager,
                                   ServerMetrics* metrics, int32_t max_message_bytes)
    : engine_(engine),
      manager_(manager),
      metrics_(metrics),
      max_message_bytes_(max_message_bytes) {}

grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* InferenceService::Session(
    grpc::CallbackServerContext* context) {
  return SessionReactor::Start(context, manager_, metrics_);
}

grpc::ServerUnaryReactor* InferenceService::GetServerInfo(grpc::CallbackServerContext* context,
                                                          const v1::GetServerInfoRequest*,
                                                          v1::GetServerInfoResponse* response) {
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

  metrics_->CountHandled(RpcMethod::kGetServerInfo, grpc::Status::OK);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
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
