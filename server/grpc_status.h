#pragma once

// Between the two status types. What leaves as a grpc::Status travels in a trailer of 8 KB at most,
// so messages and details are kept small. Pure; any thread.

#include <cstddef>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "grpcpp/support/status.h"

namespace mayfly {

constexpr size_t kMaxStatusMessageBytes = 1024;

// RESOURCE_EXHAUSTED and UNAVAILABLE carry a google.rpc.RetryInfo: trying again later can help. It
// says when, as the status does (session/retry_after.h) or else as a rule.
grpc::Status ToGrpcStatus(const absl::Status& status);

absl::Status FromGrpcStatus(const grpc::Status& status);

// `text` cut to `max_bytes` without splitting a UTF-8 character.
absl::string_view CutUtf8(absl::string_view text, size_t max_bytes);

}  // namespace mayfly
