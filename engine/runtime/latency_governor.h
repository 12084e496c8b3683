#pragma once

// Watches how fast tokens come while rows decode, and says what else may happen beside them: how
// many tokens others may feed in the same step, and whether learning should wait. Pure arithmetic
// on what it is told; owned by the engine loop.

#include <cstdint>

namespace mayfly {

class LatencyGovernor {
 public:
  // `step_tokens`: tokens of a step that may feed when nothing else limits them.
  explicit LatencyGovernor(int64_t step_tokens) : step_tokens_(step_tokens) {}

  // A step in which rows decoded is over: seconds since the step before it ended (or since it
  // began, if the loop had been idle), and the tokens that were fed beside.
  void OnStep(double seconds, int64_t fed_tokens);
  // `target`: seconds between tokens that the most demanding of the decoding rows wants; 0: nobody
  // decodes, or nobody minds.
  void SetTarget(double target);

  // Tokens come more slowly than wanted; so until they are a fifth faster than that.
  bool defers_learning() const { return deferring_; }
  // Tokens to feed beside decoding rows: what fits the target, at least kLeastFeed so that appends
  // get on. Without a target a quarter of a step.
  int64_t FeedTokens() const;

  static constexpr int64_t kLeastFeed = 16;
  // The weight of the newest step: about the last sixteen count.
  static constexpr double kNewestWeight = 1.0 / 16;

 private:
  const int64_t step_tokens_;
  double target_ = 0;
  // The running mean of the time between tokens, seconds; 0 before the first.
  double latency_ = 0;
  // Seconds of a step that only decodes, and of one token fed beside.
  double decode_ = 0;
  double feed_token_ = 0;
  bool deferring_ = false;
};

}  // namespace mayfly
