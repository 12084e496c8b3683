#include "tests/load/arrivals.h"

#include <cmath>

#include "tests/load/draw.h"

namespace mayfly::load {
namespace {

// No session draws from this stream: those have their numbers.
constexpr uint64_t kArrivalStream = ~uint64_t{0};

// When `expected` arrivals are expected to have happened: during the ramp that number grows as
// rate * t^2 / (2 * ramp), afterwards as rate * (t - ramp / 2).
double TimeOf(double expected, double rate, double ramp) {
  const double in_ramp = rate * ramp / 2;
  if (expected < in_ramp) return std::sqrt(2 * ramp * expected / rate);
  return expected / rate + ramp / 2;
}

}  // namespace

std::vector<double> PoissonArrivals(const PoissonOptions& options) {
  Draw draw(options.seed, kArrivalStream);
  std::vector<double> times;
  double expected = 0;
  while (times.size() < options.most) {
    expected += draw.Exponential();
    const double time = TimeOf(expected, options.sessions_per_second, options.ramp_seconds);
    if (time >= options.end_seconds) break;
    times.push_back(time);
  }
  return times;
}

std::vector<double> ClosedLoopStarts(size_t sessions, double ramp_seconds) {
  std::vector<double> times;
  for (size_t i = 0; i < sessions; ++i) {
    times.push_back(ramp_seconds * static_cast<double>(i) / static_cast<double>(sessions));
  }
  return times;
}

}  // namespace mayfly::load
