#include "session/token_quota.h"

#include <algorithm>
#include <cmath>

namespace mayfly {
namespace {

constexpr Duration kMinute = std::chrono::minutes(1);
// Nobody's debt grows beyond it, so that no time overflows.
constexpr Duration kMostDebt = std::chrono::hours(24 * 365);

}  // namespace

// Rounded up, so that who has waited for as long as we said does have a token.
Duration TokenQuota::TimeOf(uint64_t tokens) const {
  const double ticks =
      std::ceil(static_cast<double>(kMinute.count()) * static_cast<double>(tokens) /
                static_cast<double>(tokens_per_minute_));
  return Duration(
      static_cast<Duration::rep>(std::min(ticks, static_cast<double>(kMostDebt.count()))));
}

Duration TokenQuota::WaitFor(const std::string& tenant, TimePoint now) const {
  const auto found = full_at_.find(tenant);
  if (found == full_at_.end()) return Duration::zero();
  return found->second - now - (kMinute - TimeOf(1));
}

void TokenQuota::Spend(const std::string& tenant, uint64_t tokens, TimePoint now) {
  if (!bounded() || tokens == 0) return;
  TimePoint& full_at = full_at_.try_emplace(tenant, now).first->second;
  full_at = std::min(std::max(full_at, now) + TimeOf(tokens), now + kMostDebt);
}

void TokenQuota::Forget(TimePoint now) {
  std::erase_if(full_at_, [now](const auto& entry) { return entry.second <= now; });
}

}  // namespace mayfly
