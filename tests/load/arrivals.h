#pragma once

// When sessions should begin, decided before the run: seconds from its start. Pure: the same seed
// gives the same times.

#include <cstddef>
#include <cstdint>
#include <vector>

namespace mayfly::load {

// Open loop: arrivals that do not care how the server fares (a Poisson process). The rate rises
// evenly from zero over `ramp_seconds` and then stays. Ends at `end_seconds` or after `most`.
struct PoissonOptions {
  double sessions_per_second = 0;
  double ramp_seconds = 0;
  double end_seconds = 0;
  size_t most = 0;
  uint64_t seed = 0;
};
std::vector<double> PoissonArrivals(const PoissonOptions& options);

// Closed loop: each of `sessions` clients begins its first session at its own time of the ramp, and
// a next one whenever one ends.
std::vector<double> ClosedLoopStarts(size_t sessions, double ramp_seconds);

}  // namespace mayfly::load
