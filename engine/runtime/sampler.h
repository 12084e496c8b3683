#pragma once

// Draws one token from a row of logits. Pure: same logits, options, history and position, same
// token; the random number is a function of (seed, stream position), so a sequence draws the same
// tokens whatever else runs beside it. Any thread.

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "engine/options.h"
#include "engine/types.h"

namespace mayfly {

// How often each token occurs.
using TokenCounts = std::unordered_map<TokenId, int32_t>;

struct SamplingInput {
  // [vocabulary]; changed by the call.
  std::span<float> logits;
  // Tokens of the window, for the repetition penalty; may be null when that penalty is 1.
  const TokenCounts* window = nullptr;
  // Tokens that this generation produced, for the frequency and presence penalties; may be null as
  // well.
  const TokenCounts* generated = nullptr;
  // Position in the stream of the token to draw.
  uint64_t position = 0;
};

// Order: penalties, then temperature, then top-k, top-p and min-p on the probabilities that remain.
TokenId SampleToken(const SamplingOptions& options, const SamplingInput& input);

// Uniform in [0, 1): splitmix64 (Steele, Lea and Flood, OOPSLA 2014) of seed and position.
double UniformAt(uint64_t seed, uint64_t position);

// The `count` tokens with the highest logits, best first; ties go to the lower id.
std::vector<TokenId> TopTokens(std::span<const float> logits, int32_t count);

}  // namespace mayfly
