#pragma once

// Perplexity from per-token log-probabilities (nats), in both forms that are in use. Pure
// functions. A NaN is a token that was not scored (the first of a stream) and counts nowhere.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace mayfly::cli {

// Log-probabilities of a stream's tokens, in order.
struct TokenScores {
  std::vector<float> adapter;
  // Under the frozen base; empty unless it was compared.
  std::vector<float> base;
};

// Negative log-likelihood of some scored tokens.
struct Nll {
  double nats = 0;
  int64_t tokens = 0;

  // Nats per token; NaN without tokens.
  double Mean() const;
  // exp(Mean()); NaN without tokens.
  double Perplexity() const;
};

Nll SumNll(absl::Span<const float> logprobs);

// The consecutive chunks of `logprobs`, each of `chunk_tokens` but the last, which may be shorter.
std::vector<absl::Span<const float>> Chunks(absl::Span<const float> logprobs, size_t chunk_tokens);

// `count` consecutive parts of nearly equal length.
std::vector<absl::Span<const float>> Parts(absl::Span<const float> logprobs, size_t count);

// The token-weighted mean of the chunks' perplexities: the form of the Temp-Lora paper's code,
// never smaller than exp of the mean (Jensen). NaN without tokens.
double ChunkMeanPerplexity(absl::Span<const float> logprobs, size_t chunk_tokens);

// How far `value` lies above `base`, as a fraction of it: -0.1 is 10 % below.
double RelativeChange(double value, double base);

}  // namespace mayfly::cli
