#pragma once

// One generation under way: how far its row may run, what it has made so far and when. Owned by
// Session and guarded by its mutex; submits nothing itself.

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "engine/base/clock.h"
#include "engine/types.h"
#include "session/metrics.h"
#include "session/types.h"

namespace mayfly {

class GenerateTask {
 public:
  // `arrived`: when the client's command came.
  GenerateTask(GenerateCommand command, const SamplingOptions& sampling, TimePoint arrived)
      : command_(std::move(command)), sampling_(sampling), arrived_(arrived) {}

  // The work for the row. Horizons count tokens of the stream.
  GenerateWork Begin(uint64_t horizon, TimePoint now);
  bool begun() const { return begun_.has_value(); }
  uint64_t horizon() const { return horizon_; }
  void MoveHorizon(uint64_t horizon) { horizon_ = horizon; }
  // The horizon to move to now so that a row whose client keeps up never stalls: once half of what
  // it was allowed is used. `room`: events that the client's outbox can still take.
  std::optional<uint64_t> Extension(uint64_t position, uint64_t planned, uint64_t room) const;

  // Counts new tokens and their latency. `training`: an update is in flight somewhere.
  void OnTokens(size_t tokens, bool training, TimePoint now, SessionMetrics* metrics);
  // Tokens trained on while this ran, every epoch counted. The gap around them counts as training.
  void OnTrained(uint64_t tokens);
  GeneratedEvent Finish(FinishReason reason, TimePoint now) const;

 private:
  GenerateCommand command_;
  SamplingOptions sampling_;
  TimePoint arrived_;
  std::optional<TimePoint> begun_;
  std::optional<TimePoint> first_token_;
  TimePoint last_token_;
  uint64_t horizon_ = 0;
  Usage usage_;
  bool trained_in_gap_ = false;
};

}  // namespace mayfly
