#pragma once

// Watches whether an adapter does better or worse than the frozen base, chunk by chunk, each chunk
// scored before it is learned. Owned by RowPlanner; no clock, no randomness, not thread-safe.

namespace mayfly {

class AdaptationGate {
 public:
  enum class Verdict {
    kGood,       // no worse than the base: worth keeping as the version to return to
    kTolerated,  // worse, within the threshold
    kBad,        // worse beyond the threshold: return to the last good version
  };

  // The weight of the newest chunk in the running mean: about the last three chunks count, so that
  // one odd passage must be three times the threshold to condemn an adapter.
  static constexpr double kNewestWeight = 1.0 / 3;

  explicit AdaptationGate(double mean_excess = 0) : mean_excess_(mean_excess) {}

  // Takes one chunk's mean NLLs, nats per token, and judges by the running mean of their
  // difference. A verdict of kBad starts the mean anew.
  Verdict Judge(double nll, double base_nll, double threshold);
  // The adapter was replaced. A fresh one equals the base, which is the mean 0 that this starts
  // from.
  void Reset() { mean_excess_ = 0; }

  double mean_excess() const { return mean_excess_; }

 private:
  double mean_excess_;
};

}  // namespace mayfly
