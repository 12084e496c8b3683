#pragma once

// The service that clients call. Owned by the Server; called on gRPC's threads. Session's messages
// arrive as bytes: see SessionReactor.

#include "engine/engine.h"
#include "mayfly/v1/inference_service.grpc.pb.h"
#include "server/auth.h"
#include "server/server_metrics.h"
#include "session/session_manager.h"

namespace mayfly {

using InferenceServiceBase = v1::InferenceService::WithRawCallbackMethod_Session<
    v1::InferenceService::WithCallbackMethod_GetServerInfo<v1::InferenceService::Service>>;

class InferenceService final : public InferenceServiceBase {
 public:
  // All pointers outlive the service.
  InferenceService(const Engine* engine, SessionManager* manager, const Authenticator* auth,
                   ServerMetrics* metrics, int32_t max_message_bytes);

  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Session(
      grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* context,
                                          const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override;

 private:
  void Describe(v1::GetServerInfoResponse* response) const;
  void WriteLimits(v1::Limits* limits) const;

  const Engine* const engine_;
  SessionManager* const manager_;
  const Authenticator* const auth_;
  ServerMetrics* const metrics_;
  const int32_t max_message_bytes_;
};

}  // namespace mayfly
