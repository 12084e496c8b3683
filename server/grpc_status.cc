#include "server/grpc_status.h"

#include <string>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace mayfly {
namespace {

// Long enough that refused clients do not crowd the door, short beside a session's length.
constexpr int kRetrySeconds = 2;

bool WorthRetrying(absl::StatusCode code) {
  return code == absl::StatusCode::kResourceExhausted || code == absl::StatusCode::kUnavailable;
}

std::string RetryDetails(absl::StatusCode code, const std::string& message) {
  google::rpc::RetryInfo retry;
  retry.mutable_retry_delay()->set_seconds(kRetrySeconds);
  google::rpc::Status rich;
  rich.set_code(static_cast<int>(code));
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
  return grpc::Status(code, message, RetryDetails(status.code(), message));
}

absl::Status FromGrpcStatus(const grpc::Status& status) {
  if (status.ok()) return absl::OkStatus();
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

}  // namespace mayfly
