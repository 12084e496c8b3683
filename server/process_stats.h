#pragma once

// What the operating system says of this process.

#include <cstdint>

namespace mayfly {

struct ProcessStats {
  double cpu_seconds = 0;
  uint64_t resident_bytes = 0;
  uint64_t virtual_bytes = 0;
  uint64_t open_fds = 0;
  uint64_t max_fds = 0;
  // Since the Unix epoch.
  double start_time_seconds = 0;
};

// Reads /proc; what cannot be read stays zero.
ProcessStats ReadProcessStats();

}  // namespace mayfly
