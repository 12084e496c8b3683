#pragma once

// What the server storey counts. Written by RPCs, read by the metrics endpoint; all lock-free.

#include <array>
#include <cstddef>

#include "engine/base/metric.h"
#include "grpcpp/support/status.h"

namespace mayfly {

enum class RpcMethod {
  kSession,
  kGetServerInfo,
  kHealthCheck,
  kHealthWatch,
  kListSessions,
  kGetSession,
  kTerminateSession,
  kDrain,
};
constexpr size_t kRpcMethods = 8;
// OK to UNAUTHENTICATED.
constexpr size_t kRpcCodes = 17;

struct ServerMetrics {
  // By RpcMethod, then by grpc::StatusCode.
  std::array<std::array<Counter, kRpcCodes>, kRpcMethods> handled;
  // Part of the last minute in which the update worker trained.
  Gauge update_busy_ratio;

  void CountHandled(RpcMethod method, const grpc::Status& status) {
    handled[static_cast<size_t>(method)][static_cast<size_t>(status.error_code())].Increment();
  }
};

}  // namespace mayfly
