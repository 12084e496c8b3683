#include "server/grpc_status.h"

#include <cmath>
#include <cstdint>
#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "session/retry_after.h"

namespace mayfly {
namespace {

// Long enough that refused clients do not crowd the door, short beside a session's length.
constexpr double kRetrySeconds = 2;
// A server that goes away has replicas, or a successor soon.
constexpr double kUnavailableRetrySeconds = 1;

bool WorthRetrying(absl::StatusCode code) {
  return code == absl::StatusCode::kResourceExhausted || code == absl::StatusCode::kUnavailable;
}

double RetrySeconds(const absl::Status& status) {
  const double rule = absl::IsUnavailable(status) ? kUnavailableRetrySeconds : kRetrySeconds;
  return RetryAfterSeconds(status).value_or(rule);
}

std::string RetryDetails(const absl::Status& status, const std::string& message) {
  google::rpc::RetryInfo retry;
  const double seconds = RetrySeconds(status);
  const double whole = std::floor(seconds);
  retry.mutable_retry_delay()->set_seconds(static_cast<int64_t>(whole));
  retry.mutable_retry_delay()->set_nanos(static_cast<int32_t>((seconds - whole) * 1e9));
  google::rpc::Status rich;
  rich.set_code(static_cast<int>(status.code()));
  rich.set_message(message);
  rich.add_details()->PackFrom(retry);
  return rich.SerializeAsString();
}

}  // namespace

absl::string_view CutUtf8(absl::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return text;
  const auto continues = [&](size_t i) {
    return (static_cast<unsigned char>(text[i]) & 0xc0) == 0x80;
  };
  size_t end = max_bytes;
  while (end > 0 && continues(end)) --end;
  return text.substr(0, end);
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  // Both libraries number their codes alike: they are google.rpc.Code.
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string message(CutUtf8(status.message(), kMaxStatusMessageBytes));
  if (!WorthRetrying(status.code())) return grpc::Status(code, message);
  return grpc::Status(code, message, RetryDetails(status, message));
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace mayfly
