#include "session/retry_after.h"

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"

namespace mayfly {
namespace {

constexpr char kPayload[] = "mayfly/retry_after_seconds";

}  // namespace

absl::Status WithRetryAfter(absl::Status status, double seconds) {
  status.SetPayload(kPayload, absl::Cord(absl::StrFormat("%.9f", seconds)));
  return status;
}

std::optional<double> RetryAfterSeconds(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kPayload);
  double seconds = 0;
  if (!payload || !absl::SimpleAtod(std::string(*payload), &seconds)) return std::nullopt;
  return seconds;
}

}  // namespace mayfly
