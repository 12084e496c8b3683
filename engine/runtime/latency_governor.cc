#include "engine/runtime/latency_governor.h"

#include <algorithm>

namespace mayfly {
namespace {

// Learning begins again once tokens come in this share of the target.
constexpr double kRelease = 0.8;

void Follow(double* mean, double value) {
  *mean = *mean == 0 ? value : *mean + LatencyGovernor::kNewestWeight * (value - *mean);
}

}  // namespace

void LatencyGovernor::OnStep(double seconds, int64_t fed_tokens) {
  Follow(&latency_, seconds);
  if (fed_tokens == 0) {
    Follow(&decode_, seconds);
  } else {
    Follow(&feed_token_, std::max(0.0, seconds - decode_) / static_cast<double>(fed_tokens));
  }
  SetTarget(target_);
}

void LatencyGovernor::SetTarget(double target) {
  target_ = target;
  if (target <= 0) {
    deferring_ = false;
  } else if (latency_ > target) {
    deferring_ = true;
  } else if (latency_ < kRelease * target) {
    deferring_ = false;
  }
}

int64_t LatencyGovernor::FeedTokens() const {
  const int64_t quarter = std::max(kLeastFeed, step_tokens_ / 4);
  if (target_ <= 0 || feed_token_ <= 0) return quarter;
  const double fitting = (target_ - decode_) / feed_token_;
  return std::clamp(static_cast<int64_t>(std::min(fitting, 1e9)), kLeastFeed,
                    std::max(kLeastFeed, step_tokens_));
}

}  // namespace mayfly
