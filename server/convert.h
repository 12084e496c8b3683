#pragma once

// Between the public contract's messages and the plain values of the session and the engine. Here a
// message is only read: whether a value makes sense is for the session to say. Pure; any thread.

#include "engine/types.h"
#include "mayfly/v1/admin_service.pb.h"
#include "mayfly/v1/inference_service.pb.h"
#include "mayfly/v1/options.pb.h"
#include "mayfly/v1/session.pb.h"
#include "session/types.h"

namespace mayfly {

// A request that holds no command this server knows, or an enum value it does not know, becomes an
// InvalidCommand that names the field and the value.
SessionCommand ToCommand(const v1::SessionRequest& request);

v1::SessionResponse ToResponse(const SessionEvent& event);

// Effective options: every field is set.
v1::AdaptationOptions ToProto(const AdaptationOptions& options);
v1::SamplingOptions ToProto(const SamplingOptions& options);

v1::ModelInfo ToProto(const ModelInfo& model);
v1::RowBytes ToProto(const RowBytes& bytes);
v1::MemoryAccount ToProto(const MemoryAccount& account);
v1::SessionInfo ToProto(const SessionInfo& info);

}  // namespace mayfly
