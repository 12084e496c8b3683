#pragma once

// A time of day that moves only when a test says so. Starts at the real one, since files get their
// times from the system. Thread-safe.

#include <atomic>
#include <cstdint>

#include "engine/base/wall_clock.h"

namespace mayfly {

class FakeWallClock final : public WallClock {
 public:
  int64_t UnixSeconds() const override { return seconds_; }
  void Advance(int64_t seconds) { seconds_ += seconds; }

 private:
  std::atomic<int64_t> seconds_{SystemWallClock().UnixSeconds()};
};

}  // namespace mayfly
