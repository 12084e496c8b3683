#include "client/perplexity.h"

#include <cmath>
#include <limits>

namespace mayfly::cli {

double Nll::Mean() const {
  return tokens > 0 ? nats / static_cast<double>(tokens) : std::numeric_limits<double>::quiet_NaN();
}

double Nll::Perplexity() const { return std::exp(Mean()); }

Nll SumNll(absl::Span<const float> logprobs) {
  Nll sum;
  for (const float logprob : logprobs) {
    if (std::isnan(logprob)) continue;
    sum.nats -= logprob;
    ++sum.tokens;
  }
  return sum;
}

std::vector<absl::Span<const float>> Chunks(absl::Span<const float> logprobs, size_t chunk_tokens) {
  std::vector<absl::Span<const float>> chunks;
  for (size_t begin = 0; begin < logprobs.size(); begin += chunk_tokens) {
    chunks.push_back(logprobs.subspan(begin, chunk_tokens));
  }
  return chunks;
}

std::vector<absl::Span<const float>> Parts(absl::Span<const float> logprobs, size_t count) {
  std::vector<absl::Span<const float>> parts;
  for (size_t i = 0; i < count; ++i) {
    const size_t begin = logprobs.size() * i / count;
    const size_t end = logprobs.size() * (i + 1) / count;
    parts.push_back(logprobs.subspan(begin, end - begin));
  }
  return parts;
}

double ChunkMeanPerplexity(absl::Span<const float> logprobs, size_t chunk_tokens) {
  double weighted = 0;
  int64_t tokens = 0;
  for (const absl::Span<const float> chunk : Chunks(logprobs, chunk_tokens)) {
    const Nll nll = SumNll(chunk);
    if (nll.tokens == 0) continue;
    weighted += static_cast<double>(nll.tokens) * nll.Perplexity();
    tokens += nll.tokens;
  }
  return tokens > 0 ? weighted / static_cast<double>(tokens)
                    : std::numeric_limits<double>::quiet_NaN();
}

double RelativeChange(double value, double base) { return value / base - 1.0; }

}  // namespace mayfly::cli
