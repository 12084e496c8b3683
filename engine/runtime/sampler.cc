#include "engine/runtime/sampler.h"

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

#include "engine/device/cpu/kernels.h"

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

// Ids by logit, best first; ties go to the lower id.
auto Better(std::span<const float> logits) {
  return [logits](TokenId a, TokenId b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
}

// In double, eight sums side by side.
double Total(std::span<const float> weights) {
  std::array<double, 8> sums{};
  const size_t whole = weights.size() / sums.size() * sums.size();
  for (size_t i = 0; i < whole; i += sums.size()) {
    for (size_t j = 0; j < sums.size(); ++j) sums[j] += weights[i + j];
  }
  return std::accumulate(weights.begin() + static_cast<ptrdiff_t>(whole), weights.end(),
                         std::accumulate(sums.begin(), sums.end(), 0.0));
}

void KeepTopK(size_t k, std::span<const float> logits, std::vector<float>& weights) {
  std::vector<TokenId> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto cut = ids.begin() + static_cast<ptrdiff_t>(k);
  std::nth_element(ids.begin(), cut, ids.end(), Better(logits));
  std::for_each(cut, ids.end(), [&](TokenId id) { weights[static_cast<size_t>(id)] = 0; });
}

// Keeps the smallest set whose share reaches top_p, at least the best token. Tokens of less than
// (1 - top_p) / vocabulary have less than 1 - top_p together, so they are not in it, and few are
// left to be sorted.
void KeepTopP(double top_p, std::span<const float> logits, std::vector<float>& weights) {
  const double total = Total(weights);
  const double least = (1 - top_p) * total / static_cast<double>(weights.size());
  std::vector<TokenId> ids;
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] >= std::min(least, 1.0)) ids.push_back(static_cast<TokenId>(i));
  }
  std::sort(ids.begin(), ids.end(), Better(logits));
  std::vector<float> kept(weights.size(), 0.0f);
  double sum = 0;
  for (size_t i = 0; i < ids.size() && (i == 0 || sum < top_p * total); ++i) {
    const size_t id = static_cast<size_t>(ids[i]);
    kept[id] = weights[id];
    sum += weights[id];
  }
  weights = std::move(kept);
}

// The token at which the running sum of weights passes `share` of their total.
TokenId Draw(double share, std::span<const float> weights) {
  constexpr size_t kBlock = 1024;
  const auto block_at = [&](size_t begin) {
    return weights.subspan(begin, std::min(kBlock, weights.size() - begin));
  };
  std::vector<double> sums;
  for (size_t begin = 0; begin < weights.size(); begin += kBlock) {
    sums.push_back(Total(block_at(begin)));
  }
  double left = share * std::accumulate(sums.begin(), sums.end(), 0.0);
  size_t drawn = 0;
  for (size_t i = 0; i < sums.size(); ++i) {
    if (sums[i] == 0) continue;
    const size_t begin = i * kBlock;
    const std::span<const float> block = block_at(begin);
    if (left >= sums[i]) {
      left -= sums[i];
      drawn = begin + block.size() - 1;  // should rounding leave a rest beyond the last block
      while (weights[drawn] == 0) --drawn;
      continue;
    }
    for (size_t k = 0; k < block.size() && left >= 0; ++k) {
      if (block[k] == 0) continue;
      left -= block[k];
      drawn = begin + k;
    }
    break;
  }
  return static_cast<TokenId>(drawn);
}

}  // namespace

double UniformAt(uint64_t seed, uint64_t position) {
  // 53 bits, the mantissa of a double.
  return static_cast<double>(SplitMix64(SplitMix64(seed) ^ position) >> 11) * 0x1.0p-53;
}

TokenId SampleToken(const SamplingOptions& options, const SamplingInput& input) {
  ApplyPenalties(options, input);
  const std::span<const float> logits = input.logits;
  if (options.temperature == 0) {
    return static_cast<TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());
  }
  // Probabilities in units of the best token's.
  std::vector<float> weights(logits.size());
  cpu::BestKernels().softmax_weights(logits.data(), static_cast<int64_t>(logits.size()),
                                     static_cast<float>(1 / options.temperature), weights.data());
  const size_t k = static_cast<size_t>(options.top_k);
  if (k > 0 && k < logits.size()) KeepTopK(k, logits, weights);
  if (options.top_p < 1.0) KeepTopP(options.top_p, logits, weights);
  if (options.min_p > 0) {
    for (float& weight : weights) weight = weight < options.min_p ? 0 : weight;
  }
  return Draw(UniformAt(options.seed, input.position), weights);
}

std::vector<TokenId> TopTokens(std::span<const float> logits, int32_t count) {
  if (count == 0) return {};
  std::vector<TokenId> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto end = ids.begin() + std::min<ptrdiff_t>(count, static_cast<ptrdiff_t>(ids.size()));
  std::partial_sort(ids.begin(), end, ids.end(), Better(logits));
  ids.erase(end, ids.end());
  return ids;
}

}  // namespace mayfly
