#include "engine/runtime/latency_governor.h"

#include "gtest/gtest.h"

namespace mayfly {
namespace {

void Steps(LatencyGovernor& governor, int count, double seconds, int64_t fed = 0) {
  for (int i = 0; i < count; ++i) governor.OnStep(seconds, fed);
}

TEST(LatencyGovernorTest, WithoutATargetNothingIsDeferred) {
  LatencyGovernor governor(512);
  Steps(governor, 100, 10.0);
  EXPECT_FALSE(governor.defers_learning());
  EXPECT_EQ(governor.FeedTokens(), 128);
}

TEST(LatencyGovernorTest, DefersAboveTheTargetAndUntilWellBelowIt) {
  LatencyGovernor governor(512);
  governor.SetTarget(0.1);
  Steps(governor, 10, 0.05);
  EXPECT_FALSE(governor.defers_learning());
  Steps(governor, 100, 0.15);
  EXPECT_TRUE(governor.defers_learning());
  Steps(governor, 100, 0.09);
  EXPECT_TRUE(governor.defers_learning()) << "0.09 is within the target, but barely";
  Steps(governor, 100, 0.05);
  EXPECT_FALSE(governor.defers_learning());
}

TEST(LatencyGovernorTest, OneSlowStepIsNotYetSlow) {
  LatencyGovernor governor(512);
  governor.SetTarget(0.1);
  Steps(governor, 50, 0.05);
  governor.OnStep(0.5, 0);
  EXPECT_FALSE(governor.defers_learning());
}

TEST(LatencyGovernorTest, NobodyDefersForWhoIsGone) {
  LatencyGovernor governor(512);
  governor.SetTarget(0.1);
  Steps(governor, 100, 1.0);
  ASSERT_TRUE(governor.defers_learning());
  governor.SetTarget(0);
  EXPECT_FALSE(governor.defers_learning());
}

TEST(LatencyGovernorTest, FeedsWhatFitsTheTarget) {
  LatencyGovernor governor(512);
  governor.SetTarget(0.1);
  Steps(governor, 50, 0.02);
  Steps(governor, 200, 0.02 + 100 * 0.001, 100);
  EXPECT_NEAR(static_cast<double>(governor.FeedTokens()), 80, 1) << "(0.1 - 0.02) / 0.001";
  governor.SetTarget(0.01);
  EXPECT_EQ(governor.FeedTokens(), LatencyGovernor::kLeastFeed) << "appends still get on";
  governor.SetTarget(100);
  EXPECT_EQ(governor.FeedTokens(), 512);
}

}  // namespace
}  // namespace mayfly
