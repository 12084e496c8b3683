#include "session/token_quota.h"

#include <algorithm>
#include <map>
#include <random>
#include <string>

#include "gtest/gtest.h"

namespace mayfly {
namespace {

TimePoint At(double seconds) {
  return TimePoint(std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds)));
}

bool MayBegin(const TokenQuota& quota, const std::string& tenant, TimePoint now) {
  return quota.WaitFor(tenant, now) <= Duration::zero();
}

TEST(TokenQuotaTest, AMinutesTokensMayBeTakenAtOnceAndThenNoMore) {
  TokenQuota quota(600);
  EXPECT_TRUE(MayBegin(quota, "a", At(0)));
  quota.Spend("a", 599, At(0));
  EXPECT_TRUE(MayBegin(quota, "a", At(0)));
  quota.Spend("a", 1, At(0));
  EXPECT_FALSE(MayBegin(quota, "a", At(0)));
  EXPECT_TRUE(MayBegin(quota, "b", At(0))) << "tenants do not pay for each other";
}

TEST(TokenQuotaTest, DebtsArePaidByWaiting) {
  TokenQuota quota(60);  // one a second
  quota.Spend("a", 100, At(0));
  EXPECT_EQ(Seconds(quota.WaitFor("a", At(0))), 41) << "40 owed, and one to have";
  EXPECT_FALSE(MayBegin(quota, "a", At(40.9)));
  EXPECT_TRUE(MayBegin(quota, "a", At(41)));
}

TEST(TokenQuotaTest, ABucketHoldsNoMoreThanAMinutesTokens) {
  TokenQuota quota(60);
  quota.Spend("a", 1, At(0));
  quota.Spend("a", 60, At(3600));
  EXPECT_FALSE(MayBegin(quota, "a", At(3600)));
}

TEST(TokenQuotaTest, WithoutABoundNothingIsCounted) {
  TokenQuota quota(0);
  quota.Spend("a", 1'000'000, At(0));
  EXPECT_TRUE(MayBegin(quota, "a", At(0)));
  EXPECT_EQ(quota.size(), 0u);
}

TEST(TokenQuotaTest, TenantsWhoseBucketsAreFullAreForgotten) {
  TokenQuota quota(60);
  quota.Spend("a", 1, At(0));
  quota.Spend("b", 10, At(0));
  quota.Forget(At(5));
  EXPECT_EQ(quota.size(), 1u);
  quota.Forget(At(10));
  EXPECT_EQ(quota.size(), 0u);
}

TEST(TokenQuotaTest, NoDebtIsTooGreatToCount) {
  TokenQuota quota(1);
  for (int i = 0; i < 1000; ++i) quota.Spend("a", UINT64_MAX, At(0));
  EXPECT_FALSE(MayBegin(quota, "a", At(3600)));
  EXPECT_TRUE(MayBegin(quota, "a", At(366.0 * 24 * 3600)));
}

// Beside a bucket as one would draw it: a level that fills with time.
TEST(TokenQuotaTest, ItIsABucketWhateverIsSpentAndWhen) {
  for (uint32_t seed = 0; seed < 2000; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    const auto between = [&](int least, int most) {
      return std::uniform_int_distribution<int>(least, most)(random);
    };
    const int64_t limit = between(1, 5000);
    const double a_second = static_cast<double>(limit) / 60;
    TokenQuota quota(limit);
    std::map<std::string, double> levels = {{"a", limit}, {"b", limit}};
    double now = 0;
    for (int step = 0; step < 50; ++step) {
      const double passed = between(0, 20'000) / 1000.0;
      now += passed;
      for (auto& [tenant, level] : levels) {
        level = std::min(static_cast<double>(limit), level + passed * a_second);
        const double wait = Seconds(quota.WaitFor(tenant, At(now)));
        ASSERT_NEAR(std::max(wait, 0.0), std::max((1 - level) / a_second, 0.0), 1e-3);
        // Who waits as long as it is told is let in.
        if (wait > 0) {
          ASSERT_TRUE(MayBegin(quota, tenant, At(now) + quota.WaitFor(tenant, At(now))));
        }
      }
      const std::string spender = between(0, 1) == 0 ? "a" : "b";
      const int tokens = between(0, static_cast<int>(limit));
      quota.Spend(spender, tokens, At(now));
      levels[spender] -= tokens;
      if (between(0, 3) == 0) quota.Forget(At(now));
    }
  }
}

}  // namespace
}  // namespace mayfly
