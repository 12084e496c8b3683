#pragma once

// Reading the small files of a model directory. Any thread.

#include <string>

#include "absl/status/statusor.h"

namespace mayfly {

// The whole file; NotFound without one.
absl::StatusOr<std::string> ReadFile(const std::string& path);

}  // namespace mayfly
