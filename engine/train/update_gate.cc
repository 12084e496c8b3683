#include "engine/train/update_gate.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"

namespace mayfly {

GateVerdict JudgeUpdate(const std::vector<double>& losses,
                        const std::vector<double>& gradient_norms, bool gate) {
  const auto finite = [](double value) { return std::isfinite(value); };
  if (!std::all_of(losses.begin(), losses.end(), finite)) {
    return {UpdateOutcome::kFailed, "a loss is not finite"};
  }
  if (!std::all_of(gradient_norms.begin(), gradient_norms.end(), finite)) {
    return {UpdateOutcome::kFailed, "a gradient is not finite"};
  }
  if (gate && losses.size() > 1 && losses.back() > losses.front()) {
    return {UpdateOutcome::kSkipped,
            absl::StrFormat("the loss rose from %.4f to %.4f", losses.front(), losses.back())};
  }
  return {};
}

}  // namespace mayfly
