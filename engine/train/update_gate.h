#pragma once

// Whether a finished update is kept. Pure; any thread.

#include <string>
#include <vector>

#include "engine/types.h"

namespace mayfly {

struct GateVerdict {
  UpdateOutcome outcome = UpdateOutcome::kApplied;
  std::string reason;
};

// A value that is not finite fails the update, gate or no gate. With the gate on, a last measured
// loss above the first one drops it.
GateVerdict JudgeUpdate(const std::vector<double>& losses,
                        const std::vector<double>& gradient_norms, bool gate);

}  // namespace mayfly
