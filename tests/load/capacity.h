#pragma once

// Finds the highest rate that a server sustains, by trying: doubles the rate while it is sustained
// and halves it while it is not, then bisects (by ratio) between the highest that was and the
// lowest that was not. Pure but for the function that tries.

#include <functional>
#include <vector>

#include "absl/status/statusor.h"

namespace mayfly::load {

struct CapacityOptions {
  // Sessions a second: the first to be tried, and the bounds of what may be.
  double start = 1;
  double lowest = 0.01;
  double highest = 1000;
  // Done when the interval is this small, relative to its lower end.
  double tolerance = 0.1;
  int max_trials = 10;
};

struct Capacity {
  struct Trial {
    double rate = 0;
    bool sustained = false;
  };
  // 0: none was.
  double sustained = 0;
  // The lowest rate that was too much; 0: none was.
  double too_much = 0;
  // In the order in which they were tried.
  std::vector<Trial> trials;
};

// `sustains` runs one trial; its error ends the search.
absl::StatusOr<Capacity> FindCapacity(const CapacityOptions& options,
                                      const std::function<absl::StatusOr<bool>(double)>& sustains);

}  // namespace mayfly::load
