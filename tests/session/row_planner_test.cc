#include "session/row_planner.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

using testing::IsEmpty;
using testing::SizeIs;

AdaptationOptions SmallOptions() {
  AdaptationOptions options;
  options.chunk_tokens = 4;
  options.context_tokens = 3;
  return options;
}

void Add(RowPlanner& planner, int tokens) {
  for (int i = 0; i < tokens; ++i) planner.Add({.id = i, .logprob = -1, .base_logprob = -1});
}

UpdateDone Applied(uint64_t version) {
  UpdateDone done;
  done.adapter_version = version;
  return done;
}

TEST(RowPlannerTest, TheHorizonIsTheEndOfTheChunkOrOfTheWindow) {
  RowPlanner planner(SmallOptions(), 7);
  EXPECT_EQ(planner.horizon(), 4u);
  AdaptationOptions off = SmallOptions();
  off.adapter.rank = 0;
  EXPECT_EQ(RowPlanner(off, 7).horizon(), 7u);
}

TEST(RowPlannerTest, NothingIsDueBeforeAChunkIsComplete) {
  RowPlanner planner(SmallOptions(), 7);
  Add(planner, 3);
  EXPECT_FALSE(planner.NextLearning(false));
  EXPECT_FALSE(planner.NextRefresh());
  EXPECT_EQ(planner.lag_chunks(), 0);
}

TEST(RowPlannerTest, ACompleteChunkIsKeptThenLearnedThenTheWindowIsDue) {
  RowPlanner planner(SmallOptions(), 7);
  Add(planner, 4);
  EXPECT_EQ(planner.lag_chunks(), 1);
  ASSERT_TRUE(std::holds_alternative<CheckpointWork>(*planner.NextLearning(false)));
  planner.OnAdapterChanged({0});
  ASSERT_TRUE(std::holds_alternative<UpdateWork>(*planner.NextLearning(false)));
  EXPECT_FALSE(planner.TakeReceipt());
  planner.OnUpdateDone(Applied(1));
  EXPECT_TRUE(planner.TakeReceipt());
  EXPECT_FALSE(planner.TakeReceipt()) << "only once";
  EXPECT_EQ(planner.lag_chunks(), 0);
  ASSERT_TRUE(planner.NextRefresh());
  EXPECT_EQ(planner.NextRefresh()->begin, 1u);
  planner.OnRefreshDone();
  EXPECT_FALSE(planner.NextRefresh());
  EXPECT_EQ(planner.window_position(), 3);
  EXPECT_EQ(planner.horizon(), 8u);
}

TEST(RowPlannerTest, AnUpdateThatWasNotAppliedLeavesTheWindowAlone) {
  RowPlanner planner(SmallOptions(), 10);
  Add(planner, 4);
  planner.NextLearning(false);
  planner.OnAdapterChanged({0});
  UpdateDone failed;
  failed.outcome = UpdateOutcome::kFailed;
  planner.OnUpdateDone(failed);
  EXPECT_FALSE(planner.NextRefresh());
}

TEST(RowPlannerTest, AFailedCheckpointDoesNotStopLearning) {
  RowPlanner planner(SmallOptions(), 7);
  Add(planner, 4);
  ASSERT_TRUE(std::holds_alternative<CheckpointWork>(*planner.NextLearning(false)));
  planner.OnLearningFailed(absl::InternalError("no"));
  EXPECT_TRUE(std::holds_alternative<UpdateWork>(*planner.NextLearning(false)));
}

TEST(RowPlannerTest, AMissingBaseIsScoredPartByPart) {
  AdaptationOptions options = SmallOptions();
  options.receipt = true;
  RowPlanner planner(options, 7);
  for (int i = 0; i < 4; ++i) planner.Add({.id = i, .logprob = -1});
  const auto score = std::get<ScoreBaseWork>(*planner.NextLearning(false));
  EXPECT_EQ(score.begin, 1u);
  EXPECT_EQ(score.end, 4u);
  Scored part;
  part.base_logprobs = {-1, -2};
  planner.OnBaseScored(part);
  part.base_logprobs = {-3};
  part.done = true;
  planner.OnBaseScored(part);
  planner.NextLearning(false);
  planner.OnAdapterChanged({0});
  planner.OnUpdateDone(Applied(1));
  EXPECT_EQ(planner.TakeReceipt()->base_nll, 2.0);
}

TEST(RowPlannerTest, AnEmptyRowHasNothingToRefreshAfterAReset) {
  RowPlanner planner(SmallOptions(), 7);
  planner.OnReset({1});
  EXPECT_FALSE(planner.NextRefresh());
  EXPECT_EQ(planner.adapter_version(), 1u);
}

TEST(RowPlannerTest, WhatTheGateRemembersGoesWithTheAdapter) {
  AdaptationOptions options = SmallOptions();
  options.gate_threshold = 0.5;
  RowPlanner planner(options, 20);
  for (uint64_t version = 1; version < 4; ++version) {
    for (int i = 0; i < 4; ++i) planner.Add({.id = i, .logprob = -2.2f, .base_logprob = -1});
    ASSERT_TRUE(std::holds_alternative<UpdateWork>(*planner.NextLearning(false))) << version;
    planner.OnUpdateDone(Applied(2 * version));
    planner.OnReset({2 * version + 1});
    planner.NextRefresh();
    planner.OnRefreshDone();
  }
}

TEST(RowPlannerTest, WithoutAnAdapterAFullWindowKeepsItsContext) {
  AdaptationOptions off = SmallOptions();
  off.adapter.rank = 0;
  RowPlanner planner(off, 7);
  Add(planner, 7);
  EXPECT_FALSE(planner.NextLearning(false));
  EXPECT_EQ(planner.NextRefresh()->begin, 4u);
}

TEST(RowPlannerTest, AChunkNotBegunGoesOnBeingCollectedWhenItsUpdateIsCancelled) {
  RowPlanner planner(SmallOptions(), 7);
  Add(planner, 2);
  ASSERT_THAT(planner.UpdateNow(), IsOk());
  planner.CancelUpdateNow();
  EXPECT_FALSE(planner.updating_now());
  EXPECT_FALSE(planner.NextLearning(false));
  EXPECT_EQ(planner.horizon(), 4u);
}

}  // namespace
}  // namespace mayfly
