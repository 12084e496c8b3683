#include "session/generate_task.h"

#include <algorithm>

namespace mayfly {

GenerateWork GenerateTask::Begin(uint64_t horizon, TimePoint now) {
  begun_ = now;
  horizon_ = horizon;
  return {.sampling = sampling_,
          .max_tokens = static_cast<int32_t>(command_.max_tokens),
          .stop = command_.stop,
          .stop_token_ids = {command_.stop_token_ids.begin(), command_.stop_token_ids.end()},
          .ignore_eos = command_.ignore_eos,
          .logprobs = static_cast<int32_t>(command_.logprobs),
          .continued_tokens = static_cast<int32_t>(command_.continued_tokens),
          .horizon = horizon};
}

std::optional<uint64_t> GenerateTask::Extension(uint64_t position, uint64_t planned,
                                                uint64_t room) const {
  const uint64_t target = std::min(planned, position + room);
  if (target <= horizon_) return std::nullopt;
  const uint64_t left = horizon_ - std::min(position, horizon_);
  if (2 * left > target - position) return std::nullopt;
  return target;
}

void GenerateTask::OnTokens(size_t tokens, bool training, TimePoint now, SessionMetrics* metrics) {
  if (tokens == 0) return;
  if (!first_token_) {
    first_token_ = now;
    metrics->time_to_first_token_seconds.Observe(Seconds(now - arrived_));
  } else {
    Histogram& gaps = training || trained_in_gap_ ? metrics->inter_token_seconds_training
                                                  : metrics->inter_token_seconds_idle;
    gaps.Observe(Seconds(now - last_token_));
  }
  last_token_ = now;
  trained_in_gap_ = false;
  usage_.generated_tokens += tokens;
}

void GenerateTask::OnTrained(uint64_t tokens) {
  usage_.trained_tokens += tokens;
  trained_in_gap_ = true;
}

GeneratedEvent GenerateTask::Finish(FinishReason reason, TimePoint now) const {
  return {.reason = reason,
          .usage = usage_,
          .queue_seconds = Seconds(begun_.value_or(now) - arrived_),
          .first_token_seconds = first_token_ ? Seconds(*first_token_ - arrived_) : 0,
          .total_seconds = Seconds(now - arrived_)};
}

}  // namespace mayfly
