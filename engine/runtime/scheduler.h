#pragma once

// Continuous batching: picks which rows run in the next step and with how many tokens. Pure data in
// and out; the only state is whose turn it is. Owned by the engine loop.
//
// Every row that decodes gets its one token. What is left of the step's token budget goes to rows
// that feed (prefill, refresh, scoring), in turns that start after the row served last, so that no
// row waits for ever and a long append stalls nobody's tokens.

#include <cstdint>
#include <vector>

namespace mayfly {

// What a row could do now.
struct RowDemand {
  int32_t row = 0;
  // Tokens it could feed; 1 for a row that decodes.
  int64_t tokens = 0;
  bool decode = false;
};

// What a row does in this step.
struct StepSlice {
  int32_t row = 0;
  int64_t tokens = 0;
  bool decode = false;

  bool operator==(const StepSlice&) const = default;
};

struct StepPlan {
  std::vector<StepSlice> slices;

  int64_t tokens() const;
  bool decodes() const;
};

class Scheduler {
 public:
  // `step_tokens`: tokens of a step; decoding rows run even where they alone exceed it.
  explicit Scheduler(int64_t step_tokens) : step_tokens_(step_tokens) {}

  // `demands`: one a row that could run, in ascending order of rows. At least one token of some
  // feeding row is planned in every step, however many rows decode.
  StepPlan Next(const std::vector<RowDemand>& demands);

 private:
  const int64_t step_tokens_;
  int32_t last_fed_row_ = -1;
};

}  // namespace mayfly
