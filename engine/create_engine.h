#pragma once

// Builds the concrete engine. The only name that main needs of everything behind engine.h.

#include <memory>

#include "absl/status/statusor.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/engine.h"
#include "engine/metrics.h"
#include "engine/options.h"

namespace mayfly {

// Loads the model and allocates every row. Slow; blocks. `metrics`, `logger` and `clock` outlive
// the engine. INVALID_ARGUMENT or NOT_FOUND say what is wrong with the model directory or an
// option, RESOURCE_EXHAUSTED how many bytes are missing.
absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const EngineOptions& options,
                                                     EngineMetrics* metrics, const Logger* logger,
                                                     const Clock* clock);

}  // namespace mayfly
