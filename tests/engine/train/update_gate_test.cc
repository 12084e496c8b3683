#include "engine/train/update_gate.h"

#include <limits>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mayfly {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

TEST(UpdateGateTest, AFallingLossIsKept) {
  EXPECT_EQ(JudgeUpdate({3.0, 2.0}, {1.0}, /*gate=*/true).outcome, UpdateOutcome::kApplied);
}

TEST(UpdateGateTest, AnEqualLossIsKept) {
  EXPECT_EQ(JudgeUpdate({3.0, 3.0}, {0.0}, /*gate=*/true).outcome, UpdateOutcome::kApplied);
}

TEST(UpdateGateTest, ARisenLossIsDroppedAndTheReasonNamesBothLosses) {
  const GateVerdict verdict = JudgeUpdate({2.0, 1.0, 2.5}, {1.0, 1.0}, /*gate=*/true);
  EXPECT_EQ(verdict.outcome, UpdateOutcome::kSkipped);
  EXPECT_THAT(verdict.reason,
              testing::AllOf(testing::HasSubstr("2.0000"), testing::HasSubstr("2.5000")));
}

TEST(UpdateGateTest, OnlyTheFirstAndTheLastLossCount) {
  EXPECT_EQ(JudgeUpdate({2.0, 9.0, 1.9}, {1.0, 1.0}, /*gate=*/true).outcome,
            UpdateOutcome::kApplied);
}

TEST(UpdateGateTest, WithTheGateOffARisenLossIsKept) {
  EXPECT_EQ(JudgeUpdate({2.0, 2.5}, {1.0}, /*gate=*/false).outcome, UpdateOutcome::kApplied);
}

TEST(UpdateGateTest, OneLossAloneCannotRise) {
  EXPECT_EQ(JudgeUpdate({2.0}, {1.0}, /*gate=*/true).outcome, UpdateOutcome::kApplied);
  EXPECT_EQ(JudgeUpdate({}, {}, /*gate=*/true).outcome, UpdateOutcome::kApplied);
}

TEST(UpdateGateTest, WhatIsNotFiniteFailsWithTheGateOnOrOff) {
  for (const bool gate : {true, false}) {
    for (const double bad : {kNan, kInfinity, -kInfinity}) {
      const GateVerdict loss = JudgeUpdate({2.0, bad}, {1.0}, gate);
      EXPECT_EQ(loss.outcome, UpdateOutcome::kFailed);
      EXPECT_THAT(loss.reason, testing::HasSubstr("loss"));
      const GateVerdict norm = JudgeUpdate({2.0, 1.0}, {bad}, gate);
      EXPECT_EQ(norm.outcome, UpdateOutcome::kFailed);
      EXPECT_THAT(norm.reason, testing::HasSubstr("gradient"));
    }
  }
}

}  // namespace
}  // namespace mayfly
