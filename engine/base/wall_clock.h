#pragma once

// The time of day as a parameter, for what outlives a process and so cannot use Clock.

#include <chrono>
#include <cstdint>

namespace mayfly {

// Thread-safe.
class WallClock {
 public:
  virtual ~WallClock() = default;
  virtual int64_t UnixSeconds() const = 0;
};

class SystemWallClock final : public WallClock {
 public:
  int64_t UnixSeconds() const override {
    const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::seconds>(since_epoch).count();
  }
};

}  // namespace mayfly
