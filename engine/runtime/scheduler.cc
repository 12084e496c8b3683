#include "engine/runtime/scheduler.h"

#include <algorithm>

namespace mayfly {

int64_t StepPlan::tokens() const {
  int64_t total = 0;
  for (const StepSlice& slice : slices) total += slice.tokens;
  return total;
}

bool StepPlan::decodes() const {
  return std::any_of(slices.begin(), slices.end(), [](const StepSlice& s) { return s.decode; });
}

StepPlan Scheduler::Next(const std::vector<RowDemand>& demands) {
  StepPlan plan;
  std::vector<RowDemand> feeding;
  for (const RowDemand& demand : demands) {
    if (demand.decode) {
      plan.slices.push_back({demand.row, 1, true});
    } else if (demand.tokens > 0) {
      feeding.push_back(demand);
    }
  }
  const auto first = std::find_if(feeding.begin(), feeding.end(), [this](const RowDemand& demand) {
    return demand.row > last_fed_row_;
  });
  std::rotate(feeding.begin(), first, feeding.end());
  int64_t budget = std::max<int64_t>(1, step_tokens_ - plan.tokens());
  for (const RowDemand& demand : feeding) {
    if (budget == 0) break;
    const int64_t tokens = std::min(budget, demand.tokens);
    plan.slices.push_back({demand.row, tokens, false});
    budget -= tokens;
    last_fed_row_ = demand.row;
  }
  return plan;
}

}  // namespace mayfly
