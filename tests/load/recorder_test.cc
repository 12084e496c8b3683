#include "tests/load/recorder.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mayfly::load {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

TimePoint At(double seconds) {
  return TimePoint(std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds)));
}

class RecorderTest : public ::testing::Test {
 protected:
  // Warm until 10, measured until 20.
  Recorder recorder_{Window{At(0), At(10), At(20)},
                     Slo{.ttft_seconds = 1, .inter_token_p99_seconds = 0.1}};

  Measurements Result(double now = 30) { return recorder_.Result(At(now)); }

  static Turn TurnFrom(double intended, double ttft) {
    Turn turn;
    turn.intended = At(intended);
    turn.ended = At(intended + ttft + 1);
    turn.ttft_seconds = ttft;
    turn.gaps = {0.05, 0.07};
    turn.tokens = 3;
    return turn;
  }
};

TEST_F(RecorderTest, OnlyWhatShouldHaveBegunInTheWindowIsMeasured) {
  recorder_.TurnEnded(TurnFrom(9.9, 0.5));
  recorder_.TurnEnded(TurnFrom(10, 0.5));
  // Ends after the window and counts all the same: long turns are not lost.
  recorder_.TurnEnded(TurnFrom(19.9, 5));
  recorder_.TurnEnded(TurnFrom(20, 0.5));
  const Measurements m = Result();
  EXPECT_EQ(m.ttft.count(), 2u);
  EXPECT_EQ(m.ttft.max(), 5);
  EXPECT_EQ(m.inter_token.count(), 4u);
  EXPECT_EQ(m.turns(Verdict::kGood), 1u);
  EXPECT_EQ(m.turns(Verdict::kBad), 1u);
  EXPECT_EQ(m.attainment(), 0.5);
  EXPECT_EQ(m.good_tokens, 3u);
  EXPECT_EQ(m.seconds, 10);
}

TEST_F(RecorderTest, WhoWaitedInVainUntilTheEndHasWaitedAtLeastSoLong) {
  Turn turn;
  turn.intended = At(12);
  turn.ended = At(30);
  turn.end = TurnEnd::kCut;
  recorder_.TurnEnded(turn);
  EXPECT_EQ(Result().ttft.max(), 18);
  EXPECT_EQ(Result().turns(Verdict::kBad), 1u);
  EXPECT_EQ(Result().turn.count(), 0u);
}

TEST_F(RecorderTest, ASlowReaderIsCountedButNotMeasured) {
  Turn turn = TurnFrom(12, 9);
  turn.slow_reader = true;
  recorder_.TurnEnded(turn);
  EXPECT_EQ(Result().ttft.count(), 0u);
  EXPECT_EQ(Result().turns(Verdict::kNotJudged), 1u);
  EXPECT_EQ(Result().turns(TurnEnd::kComplete), 1u);
  EXPECT_EQ(Result().attainment(), 1);
}

TEST_F(RecorderTest, TokensCountWhenTheyComeAndAlsoOverTheWholeRun) {
  recorder_.TokensCame(At(5.5), 1);
  recorder_.TokensCame(At(15.5), 2);
  recorder_.TokensCame(At(25.5), 4);
  recorder_.Appended(At(9), At(11), 10);
  recorder_.Appended(At(19), At(21), 20);
  const Measurements m = Result();
  EXPECT_EQ(m.generated_tokens, 2u);
  EXPECT_EQ(m.all_generated_tokens, 7u);
  EXPECT_EQ(m.appended_tokens, 10u);
  EXPECT_EQ(m.all_appended_tokens, 30u);
  // The latency of an append counts by when it should have been sent.
  EXPECT_EQ(m.append.count(), 1u);
  ASSERT_EQ(m.by_second.size(), 26u);
  EXPECT_EQ(m.by_second[15].tokens, 2u);
}

TEST_F(RecorderTest, LearningIsWhatWasAppliedAndTheGainWhatReceiptsSay) {
  v1::Update update;
  update.set_outcome(v1::UPDATE_OUTCOME_APPLIED);
  update.set_tokens(60);
  update.set_label_tokens(50);
  update.set_nll(2.5);
  update.set_base_nll(3);
  recorder_.Updated(At(15), update);
  update.set_outcome(v1::UPDATE_OUTCOME_SKIPPED);
  update.clear_nll();
  recorder_.Updated(At(16), update);
  recorder_.TokensCame(At(12), 40);
  recorder_.Appended(At(12), At(12), 80);
  const Measurements m = Result();
  EXPECT_EQ(m.learned_tokens, 60u);
  EXPECT_EQ(m.learned_fraction(), 0.5);
  EXPECT_EQ(m.gained_nats, 25);
  EXPECT_EQ(m.compared_tokens, 50u);
  EXPECT_THAT(m.updates, ElementsAre(Pair("applied", 1), Pair("skipped", 1)));
}

TEST_F(RecorderTest, KnowsWhichTurnsOfTheWindowAreOpen) {
  recorder_.TurnBegan(At(9));
  recorder_.TurnBegan(At(10));
  recorder_.TurnBegan(At(19));
  recorder_.TurnBegan(At(20));
  EXPECT_EQ(recorder_.open_turns(), 2);
  recorder_.TurnLeft(At(20));
  recorder_.TurnLeft(At(10));
  EXPECT_EQ(recorder_.open_turns(), 1);
}

TEST_F(RecorderTest, ARunThatEndsEarlyMeasuresWhatThereWas) {
  EXPECT_EQ(Result(14).seconds, 4);
  EXPECT_EQ(Result(4).seconds, 0);
}

}  // namespace
}  // namespace mayfly::load
