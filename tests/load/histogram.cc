#include "tests/load/histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace mayfly::load {
namespace {

constexpr uint64_t kBucketsPerDoubling = 128;
constexpr uint64_t kExact = 2 * kBucketsPerDoubling;
constexpr double kMostMicros = 0x1p40 - 1;

size_t IndexOf(uint64_t micros) {
  if (micros < kExact) return micros;
  const auto shift = static_cast<uint64_t>(std::bit_width(micros) - std::bit_width(kExact - 1));
  return shift * kBucketsPerDoubling + (micros >> shift);
}

// The greatest value of bucket `index`, seconds.
double UpperEnd(size_t index) {
  if (index < kExact) return static_cast<double>(index) * 1e-6;
  const uint64_t shift = index / kBucketsPerDoubling - 1;
  const uint64_t top = index - shift * kBucketsPerDoubling;
  return static_cast<double>(((top + 1) << shift) - 1) * 1e-6;
}

}  // namespace

void LatencyHistogram::Record(double seconds) {
  seconds = std::clamp(seconds, 0.0, kMostMicros * 1e-6);
  const size_t index = IndexOf(static_cast<uint64_t>(std::llround(seconds * 1e6)));
  if (index >= counts_.size()) counts_.resize(index + 1);
  ++counts_[index];
  min_ = count_ == 0 ? seconds : std::min(min_, seconds);
  max_ = std::max(max_, seconds);
  sum_ += seconds;
  ++count_;
}

void LatencyHistogram::Merge(const LatencyHistogram& other) {
  if (other.count_ == 0) return;
  counts_.resize(std::max(counts_.size(), other.counts_.size()));
  for (size_t i = 0; i < other.counts_.size(); ++i) counts_[i] += other.counts_[i];
  min_ = count_ == 0 ? other.min_ : std::min(min_, other.min_);
  max_ = std::max(max_, other.max_);
  sum_ += other.sum_;
  count_ += other.count_;
}

double LatencyHistogram::mean() const {
  return count_ == 0 ? 0 : sum_ / static_cast<double>(count_);
}

double LatencyHistogram::Percentile(double share) const {
  if (count_ == 0) return 0;
  const double wanted = std::ceil(std::clamp(share, 0.0, 1.0) * static_cast<double>(count_));
  const uint64_t rank = std::max<uint64_t>(1, static_cast<uint64_t>(wanted));
  uint64_t seen = 0;
  size_t index = 0;
  while ((seen += counts_[index]) < rank) ++index;
  return std::min(UpperEnd(index), max_);
}

std::vector<LatencyHistogram::Bucket> LatencyHistogram::Buckets() const {
  std::vector<Bucket> buckets;
  for (size_t i = 0; i < counts_.size(); ++i) {
    if (counts_[i] > 0) buckets.push_back({UpperEnd(i), counts_[i]});
  }
  return buckets;
}

}  // namespace mayfly::load
