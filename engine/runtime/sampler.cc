#include "engine/runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace mayfly {
namespace {

uint64_t SplitMix64(uint64_t state) {
  state += 0x9e3779b97f4a7c15;
  state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9;
  state = (state ^ (state >> 27)) * 0x94d049bb133111eb;
  return state ^ (state >> 31);
}

void ApplyPenalties(const SamplingOptions& options, const SamplingInput& input) {
  if (options.repetition_penalty != 1.0 && input.window != nullptr) {
    const float penalty = static_cast<float>(options.repetition_penalty);
    for (const auto& [id, count] : *input.window) {
      float& logit = input.logits[static_cast<size_t>(id)];
      logit = logit > 0 ? logit / penalty : logit * penalty;
    }
  }
  if (input.generated == nullptr) return;
  for (const auto& [id, count] : *input.generated) {
    input.logits[static_cast<size_t>(id)] -=
        static_cast<float>(options.frequency_penalty * count + options.presence_penalty);
  }
}

struct Candidate {
  TokenId id;
  float logit;
};

bool Better(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// The tokens that top-k leaves, best first where the next cut needs an order.
std::vector<Candidate> Candidates(const SamplingOptions& options, std::span<const float> logits) {
  std::vector<Candidate> candidates;
  candidates.reserve(logits.size());
  for (size_t id = 0; id < logits.size(); ++id) {
    candidates.push_back({static_cast<TokenId>(id), logits[id]});
  }
  const size_t k = static_cast<size_t>(options.top_k);
  if (k > 0 && k < candidates.size()) {
    std::nth_element(candidates.begin(), candidates.begin() + static_cast<ptrdiff_t>(k),
                     candidates.end(), Better);
    candidates.resize(k);
  }
  if (options.top_p < 1.0) std::sort(candidates.begin(), candidates.end(), Better);
  return candidates;
}

}  // namespace

double UniformAt(uint64_t seed, uint64_t position) {
  // 53 bits, the mantissa of a double.
  return static_cast<double>(SplitMix64(SplitMix64(seed) ^ position) >> 11) * 0x1.0p-53;
}

TokenId SampleToken(const SamplingOptions& options, const SamplingInput& input) {
  ApplyPenalties(options, input);
  const auto best = std::max_element(input.logits.begin(), input.logits.end());
  if (options.temperature == 0) return static_cast<TokenId>(best - input.logits.begin());

  const std::vector<Candidate> candidates = Candidates(options, input.logits);
  // Probabilities in units of the best token's.
  std::vector<double> weights(candidates.size());
  double total = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    weights[i] = std::exp((candidates[i].logit - *best) / options.temperature);
    total += weights[i];
  }
  if (options.top_p < 1.0) {
    // The smallest set whose share reaches top_p: at least the best token.
    const double wanted = options.top_p * total;
    total = 0;
    size_t kept = 0;
    while (kept < weights.size() && (kept == 0 || total < wanted)) total += weights[kept++];
    weights.resize(kept);
  }
  for (double& weight : weights) {
    if (weight >= options.min_p) continue;
    total -= weight;
    weight = 0;
  }
  double left = UniformAt(options.seed, input.position) * total;
  TokenId drawn = 0;
  for (size_t i = 0; i < weights.size() && left >= 0; ++i) {
    if (weights[i] == 0) continue;
    left -= weights[i];
    drawn = candidates[i].id;
  }
  return drawn;
}

std::vector<TokenId> TopTokens(std::span<const float> logits, int32_t count) {
  std::vector<TokenId> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto end = ids.begin() + std::min<ptrdiff_t>(count, static_cast<ptrdiff_t>(ids.size()));
  std::partial_sort(ids.begin(), end, ids.end(), [&](TokenId a, TokenId b) {
    const float x = logits[static_cast<size_t>(a)];
    const float y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  });
  ids.erase(end, ids.end());
  return ids;
}

}  // namespace mayfly
