#pragma once

// When a row may come free, judged by how often rows did. Pure: no clock and no lock of its own.
// Owned by SessionManager and guarded by its mutex.

#include <algorithm>
#include <cstddef>
#include <optional>

#include "engine/base/clock.h"

namespace mayfly {

class ReleaseForecast {
 public:
  // No more precise than this, and nobody is sent away for longer.
  static constexpr double kLeastSeconds = 1;
  static constexpr double kMostSeconds = 60;

  void OnRelease(TimePoint now) {
    if (last_) {
      const double gap = Seconds(now - *last_);
      mean_ = mean_ ? *mean_ + kWeight * (gap - *mean_) : gap;
    }
    last_ = now;
  }

  // Until a row comes free that none of `ahead` takes; nothing before two rows have.
  std::optional<double> SecondsToRow(size_t ahead) const {
    if (!mean_) return std::nullopt;
    return std::clamp(*mean_ * static_cast<double>(ahead + 1), kLeastSeconds, kMostSeconds);
  }

 private:
  // Of the newest gap in the moving mean: about the last ten count.
  static constexpr double kWeight = 0.1;

  std::optional<TimePoint> last_;
  std::optional<double> mean_;
};

}  // namespace mayfly
