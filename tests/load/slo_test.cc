#include "tests/load/slo.h"

#include "gtest/gtest.h"

namespace mayfly::load {
namespace {

constexpr Slo kSlo{.ttft_seconds = 1, .inter_token_p99_seconds = 0.1};

Turn Good() {
  Turn turn;
  turn.ttft_seconds = 1;
  turn.gaps.assign(200, 0.1);
  return turn;
}

TEST(JudgeTest, BoundsAreKeptWhenTheyAreMet) { EXPECT_EQ(Judge(Good(), kSlo), Verdict::kGood); }

TEST(JudgeTest, ALateFirstTokenIsBad) {
  Turn turn = Good();
  turn.ttft_seconds = 1.001;
  EXPECT_EQ(Judge(turn, kSlo), Verdict::kBad);
}

TEST(JudgeTest, OneGapInAHundredMayBeLong) {
  Turn turn = Good();
  turn.gaps[17] = turn.gaps[170] = 5;
  EXPECT_EQ(Judge(turn, kSlo), Verdict::kGood);
  turn.gaps[99] = 5;
  EXPECT_EQ(Judge(turn, kSlo), Verdict::kBad);
}

TEST(JudgeTest, WhatFailedOrWasCutIsBadWhateverHadCome) {
  Turn turn = Good();
  turn.end = TurnEnd::kFailed;
  EXPECT_EQ(Judge(turn, kSlo), Verdict::kBad);
  turn.end = TurnEnd::kCut;
  EXPECT_EQ(Judge(turn, kSlo), Verdict::kBad);
}

TEST(JudgeTest, WhatTheScriptEndedIsJudgedByTheTokensThatCame) {
  Turn turn = Good();
  turn.end = TurnEnd::kByScript;
  EXPECT_EQ(Judge(turn, kSlo), Verdict::kGood);
  turn.ttft_seconds = 2;
  EXPECT_EQ(Judge(turn, kSlo), Verdict::kBad);
  turn.ttft_seconds.reset();
  EXPECT_EQ(Judge(turn, kSlo), Verdict::kNotJudged);
}

TEST(JudgeTest, ASlowReaderSaysNothing) {
  Turn turn = Good();
  turn.slow_reader = true;
  turn.gaps.assign(3, 60);
  EXPECT_EQ(Judge(turn, kSlo), Verdict::kNotJudged);
}

}  // namespace
}  // namespace mayfly::load
