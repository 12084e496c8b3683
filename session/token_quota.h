#pragma once

// How many tokens each tenant may still take: a bucket a tenant, which holds one minute's tokens,
// starts full and fills evenly. What is under way is never cut, so a bucket may fall below zero;
// the debt is paid by waiting. Pure: no clock and no lock of its own. Owned by SessionManager,
// which guards it.

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>

#include "engine/base/clock.h"

namespace mayfly {

class TokenQuota {
 public:
  // 0: no bound.
  explicit TokenQuota(int64_t tokens_per_minute) : tokens_per_minute_(tokens_per_minute) {}

  bool bounded() const { return tokens_per_minute_ > 0; }
  int64_t tokens_per_minute() const { return tokens_per_minute_; }

  // How long until the tenant has a token; zero or less: it has one now.
  Duration WaitFor(const std::string& tenant, TimePoint now) const;
  void Spend(const std::string& tenant, uint64_t tokens, TimePoint now);

  // Forgets the tenants whose buckets are full: they are as if they had never come.
  void Forget(TimePoint now);
  // Tenants that it remembers.
  size_t size() const { return full_at_.size(); }

 private:
  // In which so many tokens flow in.
  Duration TimeOf(uint64_t tokens) const;

  const int64_t tokens_per_minute_;
  // When each tenant's bucket will be full: all that there is to know of it.
  std::unordered_map<std::string, TimePoint> full_at_;
};

}  // namespace mayfly
