#include "tests/load/capacity.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "engine/base/status_macros.h"

namespace mayfly::load {
namespace {

// The next rate worth a trial, if any.
std::optional<double> NextRate(const CapacityOptions& options, const Capacity& known) {
  if (known.trials.empty()) return options.start;
  if (known.sustained == 0) {
    if (known.too_much <= options.lowest) return std::nullopt;
    return std::max(known.too_much / 2, options.lowest);
  }
  if (known.too_much == 0) {
    if (known.sustained >= options.highest) return std::nullopt;
    return std::min(2 * known.sustained, options.highest);
  }
  if (known.too_much <= known.sustained * (1 + options.tolerance)) return std::nullopt;
  return std::sqrt(known.sustained * known.too_much);
}

}  // namespace

absl::StatusOr<Capacity> FindCapacity(const CapacityOptions& options,
                                      const std::function<absl::StatusOr<bool>(double)>& sustains) {
  Capacity known;
  while (known.trials.size() < static_cast<size_t>(options.max_trials)) {
    const std::optional<double> rate = NextRate(options, known);
    if (!rate) break;
    MAYFLY_ASSIGN_OR_RETURN(const bool sustained, sustains(*rate));
    known.trials.push_back({*rate, sustained});
    (sustained ? known.sustained : known.too_much) = *rate;
  }
  return known;
}

}  // namespace mayfly::load
