#pragma once

// How often a histogram has observed something.

#include <cstdint>

#include "engine/base/metric.h"

namespace mayfly {

inline uint64_t Observations(const Histogram& histogram) {
  uint64_t count = 0;
  for (size_t i = 0; i <= histogram.bounds().size(); ++i) count += histogram.bucket(i);
  return count;
}

}  // namespace mayfly
