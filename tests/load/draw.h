#pragma once

// Seeded draws that are the same on every machine: the standard's generator, but not its
// distributions, which each library implements as it likes. A value; one thread.

#include <cmath>
#include <cstdint>
#include <random>

namespace mayfly::load {

// From `low` to `high`, both included.
struct Range {
  double low = 0;
  double high = 0;
};

class Draw {
 public:
  // Draws of different streams of one seed have nothing to do with each other.
  Draw(uint64_t seed, uint64_t stream) {
    std::seed_seq sequence{seed, seed >> 32, stream, stream >> 32};
    generator_.seed(sequence);
  }

  // In [0, 1).
  double Uniform() { return static_cast<double>(generator_() >> 11) * 0x1p-53; }
  double Between(const Range& range) { return range.low + Uniform() * (range.high - range.low); }
  // A whole number of the range.
  uint64_t Whole(const Range& range) {
    return static_cast<uint64_t>(Between({range.low, range.high + 1}));
  }
  // In [0, end).
  uint64_t Below(uint64_t end) {
    return static_cast<uint64_t>(Uniform() * static_cast<double>(end));
  }
  // With mean 1.
  double Exponential() { return -std::log1p(-Uniform()); }

 private:
  std::mt19937_64 generator_;
};

}  // namespace mayfly::load
