#pragma once

// Makes effective options of a client's wishes, the server's defaults and a preset. Pure; any
// thread. A value outside its range is an InvalidArgument that names the option, the value and the
// limit.

#include <optional>

#include "absl/status/statusor.h"
#include "engine/types.h"
#include "session/types.h"

namespace mayfly {

// Wishes with every field set, which resolve to these options again.
AdaptationWishes ToWishes(const AdaptationOptions& options);
SamplingWishes ToWishes(const SamplingOptions& options);

// Precedence: wishes, then the server's defaults, then the preset. `window_tokens` is the
// session's. The adapter's seed is `seed` unless wished otherwise.
absl::StatusOr<AdaptationOptions> ResolveAdaptation(const AdaptationWishes& wishes,
                                                    const AdaptationWishes& server_defaults,
                                                    const EngineInfo& engine, int32_t window_tokens,
                                                    uint64_t seed);

// The session's window: as wished, within the engine's.
absl::StatusOr<int32_t> ResolveWindow(std::optional<int64_t> window_tokens,
                                      const EngineInfo& engine);

// Precedence: wishes, then `stream_defaults`, then `server_defaults`, then SamplingOptions{}.
absl::StatusOr<SamplingOptions> ResolveSampling(const SamplingWishes& wishes,
                                                const SamplingWishes& stream_defaults,
                                                const SamplingWishes& server_defaults,
                                                uint64_t seed);

// Applies the options that may change in a running session; others are an InvalidArgument.
absl::StatusOr<AdaptationOptions> ChangeAdaptation(const AdaptationOptions& effective,
                                                   const AdaptationWishes& wishes);

}  // namespace mayfly
