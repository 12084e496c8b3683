#pragma once

// The part of the last minute in which a worker was busy, from a running total of its busy seconds.
// Used by one thread.

#include <deque>

#include "engine/base/clock.h"

namespace mayfly {

class BusyRatio {
 public:
  // `busy_seconds`: the total until `now`. Called every second or so.
  double Sample(TimePoint now, double busy_seconds) {
    samples_.push_back({now, busy_seconds});
    while (Seconds(now - samples_.front().time) > kWindowSeconds) samples_.pop_front();
    const double elapsed = Seconds(now - samples_.front().time);
    return elapsed > 0 ? (busy_seconds - samples_.front().busy_seconds) / elapsed : 0;
  }

 private:
  static constexpr double kWindowSeconds = 60;

  struct Entry {
    TimePoint time;
    double busy_seconds;
  };
  std::deque<Entry> samples_;
};

}  // namespace mayfly
