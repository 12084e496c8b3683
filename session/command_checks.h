#pragma once

// What a client's command must satisfy before it reaches the engine. Pure; every refusal is an
// InvalidArgument that names the value and its limit.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/types.h"
#include "session/types.h"

namespace mayfly {

inline constexpr size_t kMaxLabelBytes = 256;
inline constexpr uint32_t kMaxLogprobs = 20;
inline constexpr size_t kMaxStopStrings = 16;
inline constexpr size_t kMaxStopTokens = 256;

absl::Status CheckLabel(const std::string& label);

// There is input, and its text is text.
absl::Status CheckAppend(const AppendCommand& command);
absl::Status CheckAppendLength(size_t tokens, const SessionLimits& limits);
// The ids as tokens of a vocabulary of that size.
absl::StatusOr<std::vector<TokenId>> CheckTokenIds(const std::vector<uint32_t>& ids,
                                                   int32_t vocabulary);

// All of the command but its sampling options, which ResolveSampling checks.
absl::Status CheckGenerate(const GenerateCommand& command, const SessionLimits& limits);

}  // namespace mayfly
