#pragma once

// When a refused client may try again, where somebody knows: a payload of the status, so that it
// goes with the refusal to whoever tells the client. Pure; any thread.

#include <optional>

#include "absl/status/status.h"

namespace mayfly {

absl::Status WithRetryAfter(absl::Status status, double seconds);
std::optional<double> RetryAfterSeconds(const absl::Status& status);

}  // namespace mayfly
