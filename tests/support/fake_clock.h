#pragma once

// A clock that moves only when a test says so. Thread-safe.

#include <atomic>
#include <chrono>

#include "engine/base/clock.h"

namespace mayfly {

class FakeClock final : public Clock {
 public:
  TimePoint Now() const override { return TimePoint(Duration(ticks_.load())); }

  void Advance(double seconds) {
    ticks_ += std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds)).count();
  }

 private:
  std::atomic<Duration::rep> ticks_{0};
};

}  // namespace mayfly
