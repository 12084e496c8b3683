#include "session/row_planner.h"

#include <optional>
#include <random>

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

// ---- Parallel mode ---------------------------------------------------------------------------

AdaptationOptions ParallelOptions(int32_t max_lag_chunks = 1) {
  AdaptationOptions options = SmallOptions();
  options.mode = UpdateMode::kParallel;
  options.max_lag_chunks = max_lag_chunks;
  options.gate = false;
  return options;
}

UpdateWork NextUpdate(RowPlanner& planner) {
  return std::get<UpdateWork>(*planner.NextLearning(false));
}

TEST(RowPlannerTest, InParallelModeTheNextChunksAreCollectedWhileOneIsLearned) {
  RowPlanner planner(ParallelOptions(2), 20);
  EXPECT_EQ(planner.horizon(), 12u) << "two chunks beyond the first";
  Add(planner, 6);
  const UpdateWork first = NextUpdate(planner);
  EXPECT_TRUE(first.parallel);
  EXPECT_EQ(first.begin, 0u);
  EXPECT_THAT(first.tokens, SizeIs(4)) << "the chunk, not what was collected since";
  Add(planner, 6);
  EXPECT_EQ(planner.position(), planner.horizon()) << "the lag bound";
  EXPECT_EQ(planner.lag_chunks(), 3);
  planner.OnUpdateDone(Applied(1));
  EXPECT_EQ(planner.horizon(), 16u);
  EXPECT_EQ(planner.TakeReceipt()->tokens, 4);
}

TEST(RowPlannerTest, WithoutLagGenerationWaitsForEveryUpdate) {
  RowPlanner planner(ParallelOptions(0), 7);
  Add(planner, 4);
  EXPECT_EQ(planner.horizon(), 4u);
  NextUpdate(planner);
  EXPECT_EQ(planner.horizon(), 4u);
  planner.OnUpdateDone(Applied(1));
  planner.NextRefresh();
  planner.OnRefreshDone();
  EXPECT_EQ(planner.horizon(), 8u);
}

TEST(RowPlannerTest, InParallelModeTheWindowIsComputedAgainBetweenTwoUpdates) {
  RowPlanner planner(ParallelOptions(1), 12);
  Add(planner, 8);
  NextUpdate(planner);
  EXPECT_FALSE(planner.NextRefresh()) << "an update is in flight";
  planner.OnUpdateDone(Applied(1));
  EXPECT_FALSE(planner.NextLearning(false)) << "first the window, then the second chunk";
  EXPECT_EQ(planner.NextRefresh()->begin, 1u) << "the context of the second chunk";
  Add(planner, 2);
  planner.OnRefreshDone();
  EXPECT_EQ(planner.window_position(), 9) << "tokens that came meanwhile do not move its begin";
  EXPECT_EQ(NextUpdate(planner).begin, 4u);
}

TEST(RowPlannerTest, InParallelModeAChunkBeginsWithRoomForAllThatIsCollectedMeanwhile) {
  AdaptationOptions options = ParallelOptions(1);
  options.kv_policy = KvPolicy::kKeep;
  RowPlanner planner(options, 13);
  Add(planner, 4);
  NextUpdate(planner);
  planner.OnUpdateDone(Applied(1));
  EXPECT_FALSE(planner.NextRefresh()) << "nothing is learned now and there is room";
  Add(planner, 4);
  NextUpdate(planner);
  planner.OnUpdateDone(Applied(2));
  Add(planner, 4);
  EXPECT_FALSE(planner.NextLearning(false)) << "the next chunk ends at 16, beyond the window";
  EXPECT_EQ(planner.NextRefresh()->begin, 5u);
  planner.OnRefreshDone();
  EXPECT_EQ(NextUpdate(planner).begin, 8u);
  EXPECT_EQ(planner.horizon(), 16u);
}

TEST(RowPlannerTest, AWindowFullOfWhatIsToBeLearnedIsNotComputedAgain) {
  RowPlanner planner(ParallelOptions(1), 11);
  Add(planner, 4);
  EXPECT_FALSE(planner.NextLearning(true));
  Add(planner, 7);
  EXPECT_EQ(planner.horizon(), 11u);
  EXPECT_FALSE(planner.NextRefresh());
  EXPECT_EQ(NextUpdate(planner).begin, 0u);
}

TEST(RowPlannerTest, AFailedRefreshStaysDue) {
  RowPlanner planner(ParallelOptions(1), 12);
  Add(planner, 4);
  NextUpdate(planner);
  planner.OnUpdateDone(Applied(1));
  ASSERT_TRUE(planner.NextRefresh());
  planner.OnRefreshFailed();
  Add(planner, 4);
  EXPECT_FALSE(planner.NextLearning(false));
  EXPECT_TRUE(planner.NextRefresh());
}

// ---- Learning that waits ------------------------------------------------------------------------

TEST(RowPlannerTest, AChunkThatWaitsMovesTheHorizonOn) {
  for (const UpdateMode mode : {UpdateMode::kCascaded, UpdateMode::kParallel}) {
    AdaptationOptions options = ParallelOptions(1);
    options.mode = mode;
    RowPlanner planner(options, 40);
    Add(planner, 4);
    const uint64_t before = planner.horizon();
    EXPECT_FALSE(planner.NextLearning(true));
    EXPECT_EQ(planner.horizon(), before + 4);
    EXPECT_FALSE(planner.NextLearning(true));
    EXPECT_EQ(planner.horizon(), before + 4) << "once a chunk";
    EXPECT_EQ(planner.TakeToll().deferred, 1u);
    EXPECT_EQ(planner.TakeToll().deferred, 0u);
    EXPECT_EQ(planner.lag_chunks(), 1);
  }
}

TEST(RowPlannerTest, ChunksThatWaitedAreLearnedTogether) {
  AdaptationOptions options = SmallOptions();
  options.gate = false;
  RowPlanner planner(options, 40);
  for (int chunk = 0; chunk < 3; ++chunk) {
    Add(planner, 4);
    EXPECT_FALSE(planner.NextLearning(true));
  }
  Add(planner, 2);
  const UpdateWork update = NextUpdate(planner);
  EXPECT_EQ(update.begin, 0u);
  EXPECT_THAT(update.tokens, SizeIs(12));
  EXPECT_TRUE(update.parallel) << "two newer tokens lie behind it";
  planner.OnUpdateDone(Applied(1));
  const UpdateEvent receipt = *planner.TakeReceipt();
  EXPECT_EQ(receipt.merged_chunks, 3);
  EXPECT_EQ(receipt.lag_chunks, 3);
  EXPECT_EQ(receipt.tokens, 12);
  EXPECT_EQ(receipt.chunk_index, 0u);
  EXPECT_EQ(planner.horizon(), 16u);
  Add(planner, 2);
  EXPECT_FALSE(NextUpdate(planner).parallel);
  planner.OnUpdateDone(Applied(2));
  EXPECT_EQ(planner.TakeReceipt()->chunk_index, 3u);
}

TEST(RowPlannerTest, WhatOnlyLaggedIsLearnedChunkByChunk) {
  RowPlanner planner(ParallelOptions(2), 20);
  Add(planner, 12);
  EXPECT_THAT(NextUpdate(planner).tokens, SizeIs(4));
}

// The oldest goes, so that what is learned is near what comes next.
TEST(RowPlannerTest, WhenTooManyChunksWaitTheOldestIsSkipped) {
  RowPlanner planner(SmallOptions(), 100);
  for (int chunk = 0; chunk < RowPlanner::kMaxMergedChunks + 1; ++chunk) {
    EXPECT_FALSE(planner.TakeReceipt());
    Add(planner, 4);
    EXPECT_FALSE(planner.NextLearning(true));
  }
  const UpdateEvent skipped = *planner.TakeReceipt();
  EXPECT_EQ(skipped.result.outcome, UpdateOutcome::kSkipped);
  EXPECT_THAT(skipped.result.reason, testing::HasSubstr("target_inter_token_ms"));
  EXPECT_EQ(skipped.chunk_index, 0u);
  EXPECT_EQ(skipped.tokens, 4);
  EXPECT_EQ(skipped.lag_chunks, 5);
  EXPECT_EQ(planner.lag_chunks(), 4);
  const RowPlanner::Toll toll = planner.TakeToll();
  EXPECT_EQ(toll.deferred, 5u);
  EXPECT_EQ(toll.skipped, 1u);
}

TEST(RowPlannerTest, ChunksWaitOnlyWhileTheWindowAndOneUpdateHoldThem) {
  const auto waiting = [](const AdaptationOptions& options, int window, int max_update_tokens) {
    RowPlanner planner(options, window, max_update_tokens);
    while (!planner.TakeReceipt()) {
      Add(planner, 4);
      planner.NextLearning(true);
    }
    return planner.lag_chunks();
  };
  EXPECT_EQ(waiting(SmallOptions(), 100, 0), 4);
  EXPECT_EQ(waiting(SmallOptions(), 15, 0), 2) << "the context, two chunks and a third";
  EXPECT_EQ(waiting(SmallOptions(), 7, 0), 0) << "the window holds a context and one chunk";
  EXPECT_EQ(waiting(SmallOptions(), 100, 12), 3);
  AdaptationOptions window_scope = SmallOptions();
  window_scope.gradient_scope = GradientScope::kWindow;
  EXPECT_EQ(waiting(window_scope, 100, 12), 2) << "the context is trained on too";
}

TEST(RowPlannerTest, UpdateNowDoesNotWaitAndLearnsAllThatWaited) {
  AdaptationOptions options = SmallOptions();
  options.gate = false;
  RowPlanner planner(options, 40);
  Add(planner, 4);
  EXPECT_FALSE(planner.NextLearning(true));
  Add(planner, 2);
  ASSERT_THAT(planner.UpdateNow(), IsOk());
  EXPECT_EQ(std::get<UpdateWork>(*planner.NextLearning(true)).tokens.size(), 4u);
  planner.OnUpdateDone(Applied(1));
  EXPECT_TRUE(planner.updating_now());
  EXPECT_EQ(std::get<UpdateWork>(*planner.NextLearning(true)).tokens.size(), 2u);
  planner.OnUpdateDone(Applied(2));
  EXPECT_FALSE(planner.updating_now());
}

TEST(RowPlannerTest, WhatWaitedIsForgottenByAReset) {
  RowPlanner planner(ParallelOptions(1), 40);
  Add(planner, 4);
  EXPECT_FALSE(planner.NextLearning(true));
  planner.OnReset({1});
  EXPECT_EQ(planner.lag_chunks(), 0);
  EXPECT_EQ(planner.horizon(), 12u);
}

// Whatever the order of tokens, updates, refreshes and the engine's wishes: the horizon never moves
// back, the lag stays within its bound, the row never stands still for ever, and each token is
// learned or skipped once, in order, with its context in the window.
class RandomPlan {
 public:
  explicit RandomPlan(uint32_t seed) : random_(seed) {
    options_.chunk_tokens = Between(1, 8);
    options_.context_tokens = Between(1, 8);
    options_.mode = Chance(70) ? UpdateMode::kParallel : UpdateMode::kCascaded;
    options_.max_lag_chunks = Between(0, 3);
    options_.kv_policy = static_cast<KvPolicy>(Between(0, 2));
    options_.gate = false;
    defers_ = Chance(50);
    const int chunks = parallel() ? options_.max_lag_chunks + 1 : 1;
    window_ = options_.context_tokens + chunks * options_.chunk_tokens + Between(0, 30);
    planner_.emplace(options_, window_);
  }

  void Run() {
    for (int i = 0; i < 400; ++i) {
      Turn();
      CheckBounds();
    }
    EXPECT_GT(learned_to_, 20u) << "it stood still";
  }

 private:
  int Between(int least, int most) {
    return std::uniform_int_distribution<int>(least, most)(random_);
  }
  bool Chance(int percent) { return Between(1, 100) <= percent; }
  bool parallel() const { return options_.mode == UpdateMode::kParallel; }

  void Turn() {
    if (defers_ && Chance(10)) deferring_ = !deferring_;
    const bool may_add = parallel() || !(updating_ || refreshing_);
    if (may_add && planner_->position() < planner_->horizon() && Chance(70)) return AddOne();
    if (updating_ || refreshing_) return Chance(30) ? Answer() : void();
    if (TakeReceipt()) return;
    if (const auto work = planner_->NextLearning(deferring_))
      return Begin(std::get<UpdateWork>(*work));
    if (TakeReceipt()) return;
    if (const auto refresh = planner_->NextRefresh()) {
      EXPECT_GE(refresh->begin, window_start_);
      EXPECT_LE(refresh->begin, planner_->position());
      refreshing_ = refresh;
    }
  }

  void AddOne() { planner_->Add({.id = static_cast<TokenId>(planner_->position())}); }

  void Begin(const UpdateWork& update) {
    EXPECT_EQ(update.begin, learned_to_);
    EXPECT_EQ(update.tokens.front(), static_cast<TokenId>(update.begin));
    EXPECT_GE(update.begin - update.context.size(), window_start_);
    if (!update.parallel) {
      EXPECT_EQ(update.begin + update.tokens.size(), planner_->position());
    }
    updating_ = true;
  }

  void Answer() {
    if (updating_) {
      planner_->OnUpdateDone(Applied(++version_));
      TakeReceipt();
    } else {
      planner_->OnRefreshDone();
      window_start_ = refreshing_->begin;
    }
    updating_ = false;
    refreshing_.reset();
  }

  bool TakeReceipt() {
    const auto receipt = planner_->TakeReceipt();
    if (receipt) learned_to_ += receipt->tokens;
    return receipt.has_value();
  }

  void CheckBounds() {
    EXPECT_GE(planner_->horizon(), horizon_);
    horizon_ = planner_->horizon();
    EXPECT_LE(planner_->position(), window_start_ + window_);
    if (defers_) return;
    const uint64_t lag = parallel() ? options_.max_lag_chunks : 0;
    EXPECT_LE(planner_->position(), learned_to_ + (lag + 1) * options_.chunk_tokens);
  }

  std::mt19937 random_;
  AdaptationOptions options_;
  int window_ = 0;
  std::optional<RowPlanner> planner_;
  bool defers_ = false;
  bool deferring_ = false;
  bool updating_ = false;
  std::optional<RefreshWork> refreshing_;
  uint64_t version_ = 0;
  uint64_t window_start_ = 0;
  uint64_t learned_to_ = 0;
  uint64_t horizon_ = 0;
};

TEST(RowPlannerTest, RandomPlansKeepTheirBounds) {
  for (uint32_t seed = 0; seed < 3000; ++seed) {
    SCOPED_TRACE(seed);
    RandomPlan(seed).Run();
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace mayfly
