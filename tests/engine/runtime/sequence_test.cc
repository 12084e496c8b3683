#include "engine/runtime/sequence.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mayfly {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

Window Filled(int64_t kv_length) {
  Window window;
  window.tokens = {10, 11, 12, 13, 14};
  window.start = 100;
  window.kv_length = kv_length;
  window.kv_written = kv_length;
  return window;
}

TEST(WindowTest, TheNewestTokenNeedsNoKeysYet) {
  EXPECT_EQ(Filled(4).to_feed(), 0);
  EXPECT_EQ(Filled(1).to_feed(), 3);
  EXPECT_EQ(Window().to_feed(), -1);
  EXPECT_EQ(Filled(4).end(), 105u);
}

TEST(WindowTest, ARestartKeepsTheNewestTokensAndTheirPlaceInTheStream) {
  Window window = Filled(4);
  window.Restart(103);
  EXPECT_THAT(window.tokens, ElementsAre(13, 14));
  EXPECT_EQ(window.start, 103u);
  EXPECT_EQ(window.end(), 105u);
  EXPECT_EQ(window.kv_length, 0);
  EXPECT_EQ(window.kv_written, 4);  // they are still in memory, to be zeroed one day
}

TEST(WindowTest, ARestartBeforeTheWindowDropsNothing) {
  Window window = Filled(4);
  window.Restart(7);
  EXPECT_EQ(window.size(), 5);
  EXPECT_EQ(window.start, 100u);
  EXPECT_EQ(window.kv_length, 0);
}

TEST(WindowTest, ARestartAtItsEndEmptiesTheWindow) {
  Window window = Filled(4);
  window.Restart(105);
  EXPECT_THAT(window.tokens, IsEmpty());
  EXPECT_EQ(window.start, 105u);
}

TEST(WindowTest, TruncatingDropsTokensAndLeavesTheNewestWithoutKeys) {
  Window window = Filled(4);
  window.Truncate(103);
  EXPECT_THAT(window.tokens, ElementsAre(10, 11, 12));
  EXPECT_EQ(window.kv_length, 2);
  EXPECT_EQ(window.to_feed(), 0);
}

TEST(WindowTest, TruncatingBehindTheEndOrBeforeTheStart) {
  Window window = Filled(4);
  window.Truncate(105);
  EXPECT_EQ(window.size(), 5);
  window.Truncate(7);
  EXPECT_THAT(window.tokens, IsEmpty());
  EXPECT_EQ(window.kv_length, 0);
}

TEST(GenerationTest, CountsOnlyWhatItsPenaltiesNeed) {
  Generation plain;
  plain.Count(7);
  EXPECT_EQ(plain.tokens, 1);
  EXPECT_THAT(plain.window_counts, IsEmpty());
  EXPECT_THAT(plain.generated_counts, IsEmpty());

  Generation penalized;
  penalized.work.sampling.repetition_penalty = 1.1;
  penalized.work.sampling.presence_penalty = 0.5;
  penalized.window_counts[7] = 3;
  penalized.Count(7);
  penalized.Count(7);
  EXPECT_EQ(penalized.window_counts[7], 5);
  EXPECT_EQ(penalized.generated_counts[7], 2);
}

UpdateWork Learn(bool parallel) {
  UpdateWork work;
  work.parallel = parallel;
  return work;
}

TEST(SequenceTest, AClosingRowStartsNothing) {
  Sequence sequence;
  EXPECT_TRUE(sequence.CanStart(PrefillWork{}));
  sequence.closing = true;
  EXPECT_FALSE(sequence.CanStart(PrefillWork{}));
  EXPECT_FALSE(sequence.CanStart(Learn(/*parallel=*/true)));
}

TEST(SequenceTest, BesideAGenerationOnlyWorkThatAddsNoTokensStarts) {
  Sequence sequence;
  sequence.generation.emplace();
  EXPECT_FALSE(sequence.CanStart(PrefillWork{}));
  EXPECT_FALSE(sequence.CanStart(GenerateWork{}));
  EXPECT_FALSE(sequence.CanStart(Learn(/*parallel=*/false)));
  EXPECT_TRUE(sequence.CanStart(Learn(/*parallel=*/true)));
  EXPECT_TRUE(sequence.CanStart(RefreshWork{}));
  EXPECT_TRUE(sequence.CanStart(ScoreBaseWork{}));
  sequence.generation->paused = true;
  EXPECT_TRUE(sequence.CanStart(PrefillWork{}));
  EXPECT_TRUE(sequence.CanStart(Learn(/*parallel=*/false)));
}

TEST(SequenceTest, BesideAFeedOnlyAParallelUpdateStarts) {
  Sequence sequence;
  sequence.feed.emplace();
  EXPECT_FALSE(sequence.CanStart(PrefillWork{}));
  EXPECT_FALSE(sequence.CanStart(RefreshWork{}));
  EXPECT_FALSE(sequence.CanStart(Learn(/*parallel=*/false)));
  EXPECT_TRUE(sequence.CanStart(Learn(/*parallel=*/true)));
}

TEST(SequenceTest, WhatWouldDisturbAnUpdateWaitsForIt) {
  Sequence sequence;
  sequence.update = UpdateInFlight{3, /*parallel=*/true, nullptr};
  for (const RowWork& work :
       {RowWork(RefreshWork{}), RowWork(CheckpointWork{}), RowWork(RollBackWork{}),
        RowWork(ResetWork{}), RowWork(Learn(true)), RowWork(Learn(false))}) {
    EXPECT_FALSE(sequence.CanStart(work)) << work.index();
  }
  EXPECT_TRUE(sequence.CanStart(PrefillWork{}));
  EXPECT_TRUE(sequence.CanStart(GenerateWork{}));
  EXPECT_TRUE(sequence.CanStart(ScoreBaseWork{}));
  sequence.update->parallel = false;
  EXPECT_FALSE(sequence.CanStart(PrefillWork{}));
  EXPECT_FALSE(sequence.CanStart(ScoreBaseWork{}));
}

}  // namespace
}  // namespace mayfly
