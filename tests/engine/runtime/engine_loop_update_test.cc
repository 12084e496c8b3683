// How a row learns: versions, what an update changes and what it must not.

#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/tiny_engine.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class EngineLoopUpdateTest : public testing::Test {
 protected:
  // Two periods of context and two of chunk.
  TestRow Repeating(const AdapterSpec& spec = Spec()) {
    TestRow row(&engine_, spec);
    row.Prefill(RepeatedTokens(32, 8, 1));
    return row;
  }
  // Masters, moments, serving weights and checkpoint of a row, in one tensor.
  at::Tensor State(const TestRow& row) {
    const AdapterState state = engine_.adapters().State(row.handle().row);
    return at::cat({state.serving, state.master, state.moment1, state.moment2, state.checkpoint});
  }
  // The scores of a text from an empty window, as the row's adapter gives them.
  std::vector<float> Scores(TestRow& row) {
    row.Refresh(0);
    return row.Prefill(RandomTokens(16, 9)).logprobs;
  }
  // Refused before it starts, and nothing changed.
  void ExpectRefused(TestRow& row, const UpdateWork& work) {
    const at::Tensor before = State(row);
    const UpdateDone done = row.Update(work);
    EXPECT_EQ(done.outcome, UpdateOutcome::kFailed);
    EXPECT_THAT(done.reason, HasSubstr("cannot learn"));
    EXPECT_TRUE(at::equal(State(row), before));
  }

  TinyEngine engine_;
};

TEST_F(EngineLoopUpdateTest, AnUpdateReportsWhatItDid) {
  TestRow row = Repeating();
  UpdateWork lesson = row.Lesson(16, 16);
  lesson.epochs = 4;
  lesson.measure_after = true;
  lesson.gate = true;
  lesson.weights[0] = 0;
  const UpdateDone done = row.Update(lesson);
  EXPECT_EQ(done.outcome, UpdateOutcome::kApplied) << done.reason;
  EXPECT_EQ(done.adapter_version, 1u);
  EXPECT_EQ(done.label_tokens, 15);
  EXPECT_THAT(done.gradient_norms, SizeIs(4));
  ASSERT_THAT(done.losses, SizeIs(5));
  EXPECT_LT(done.losses.back(), done.losses.front());
}

TEST_F(EngineLoopUpdateTest, EveryTokenCarriesTheVersionThatDrewIt) {
  TestRow row = Repeating();
  EXPECT_THAT(row.Generate(Greedy(3)).versions, Each(0u));
  ASSERT_EQ(row.Update(row.Lesson(16, 16)).adapter_version, 1u);
  EXPECT_THAT(row.Generate(Greedy(3)).versions, Each(1u));
  ASSERT_EQ(row.Update(row.Lesson(16, 16)).adapter_version, 2u);
  EXPECT_THAT(row.Generate(Greedy(3)).versions, Each(2u));
}

TEST_F(EngineLoopUpdateTest, ATextThatWasLearnedIsScoredBetter) {
  const std::vector<TokenId> text = RepeatedTokens(32, 8, 1);
  TestRow row(&engine_);
  const auto nll = [](const Scored& scored) {
    double sum = 0;
    for (size_t i = 1; i < scored.logprobs.size(); ++i) sum -= scored.logprobs[i];
    return sum / static_cast<double>(scored.logprobs.size() - 1);
  };
  const double before = nll(row.Prefill(text));
  UpdateWork lesson = row.Lesson(32, 0);
  lesson.epochs = 10;
  ASSERT_EQ(row.Update(lesson).outcome, UpdateOutcome::kApplied);
  row.Refresh(0);
  EXPECT_LT(nll(row.Prefill(text)), before - 0.5);
}

TEST_F(EngineLoopUpdateTest, BothScopesLearnFromTheSameLoss) {
  TestRow chunk = Repeating(), window = Repeating();
  UpdateWork lesson = chunk.Lesson(16, 16);
  lesson.gradient_scope = GradientScope::kChunk;
  const UpdateDone a = chunk.Update(lesson);
  lesson.gradient_scope = GradientScope::kWindow;
  const UpdateDone b = window.Update(lesson);
  EXPECT_EQ(a.outcome, UpdateOutcome::kApplied);
  EXPECT_EQ(b.outcome, UpdateOutcome::kApplied);
  EXPECT_NEAR(a.losses.at(0), b.losses.at(0), 1e-4);
  // The window's gradient also flows through the context.
  EXPECT_NE(a.gradient_norms.at(0), b.gradient_norms.at(0));
}

TEST_F(EngineLoopUpdateTest, TheWindowsScopeNeedsNoKeysOfTheContext) {
  TestRow row = Repeating();
  UpdateWork lesson = row.Lesson(16, 16);
  lesson.gradient_scope = GradientScope::kWindow;
  row.Refresh(16);
  EXPECT_EQ(row.Update(lesson).outcome, UpdateOutcome::kApplied);
  lesson.gradient_scope = GradientScope::kChunk;
  ExpectRefused(row, lesson);
}

TEST_F(EngineLoopUpdateTest, OnlyTheNewestTokensCanBeLearned) {
  TestRow row = Repeating();
  UpdateWork lesson = row.Lesson(16, 8);
  lesson.begin -= 1;
  ExpectRefused(row, lesson);
  lesson = row.Lesson(16, 8);
  lesson.begin += 1;
  ExpectRefused(row, lesson);
  UpdateWork nothing;
  nothing.begin = 32;
  ExpectRefused(row, nothing);
  row.Refresh(8);
  ExpectRefused(row, row.Lesson(16, 0));  // half of it has left the window
}

TEST_F(EngineLoopUpdateTest, ASessionWithoutAnAdapterCannotLearn) {
  TestRow row = Repeating(Spec(0));
  ExpectRefused(row, row.Lesson(16, 16));
  for (RowWork& work : std::vector<RowWork>{CheckpointWork{}, RollBackWork{}, ResetWork{}}) {
    EXPECT_THAT(row.sink().Wait<WorkFailed>(row.Submit(std::move(work))).status,
                HasCode(absl::StatusCode::kFailedPrecondition));
  }
  EXPECT_TRUE(engine_.adapters().IsZero(row.handle().row));
}

TEST_F(EngineLoopUpdateTest, ADroppedUpdateLeavesTheRowBitForBit) {
  TestRow row = Repeating(), same = Repeating();
  for (TestRow* each : {&row, &same}) {
    UpdateWork lesson = each->Lesson(16, 16);
    lesson.epochs = 20;
    ASSERT_EQ(each->Update(lesson).outcome, UpdateOutcome::kApplied);
  }
  const at::Tensor before = State(row);
  UpdateWork ruinous = row.Lesson(16, 16);
  ruinous.optimizer.learning_rate = 100;
  ruinous.measure_after = true;
  ruinous.gate = true;
  const UpdateDone done = row.Update(ruinous);
  EXPECT_EQ(done.outcome, UpdateOutcome::kSkipped);
  EXPECT_THAT(done.reason, HasSubstr("rose"));
  EXPECT_EQ(done.adapter_version, 1u);
  EXPECT_TRUE(at::equal(State(row), before));
  EXPECT_TRUE(SameBits(Scores(row), Scores(same)));
  // The optimizer's step count is the old one too: what is learned next is the same.
  for (TestRow* each : {&row, &same}) {
    ASSERT_EQ(each->Update(each->Lesson(16, 0)).outcome, UpdateOutcome::kApplied);
  }
  EXPECT_TRUE(at::equal(State(row), State(same)));
}

TEST_F(EngineLoopUpdateTest, RollingBackReturnsToTheCheckpoint) {
  TestRow row = Repeating();
  ASSERT_EQ(row.Update(row.Lesson(16, 16)).outcome, UpdateOutcome::kApplied);
  const std::vector<float> good = Scores(row);
  EXPECT_EQ(row.Change(CheckpointWork{}), 1u);
  ASSERT_EQ(row.Update(row.Lesson(16, 0)).outcome, UpdateOutcome::kApplied);
  EXPECT_FALSE(SameBits(Scores(row), good));
  EXPECT_EQ(row.Change(RollBackWork{}), 3u);
  EXPECT_TRUE(SameBits(Scores(row), good));
}

TEST_F(EngineLoopUpdateTest, WithoutACheckpointRollingBackAndResettingGiveTheBase) {
  TestRow row = Repeating(), base = Repeating(Spec(0));
  const std::vector<float> expected = Scores(base);
  for (RowWork work : {RowWork(RollBackWork{}), RowWork(ResetWork{})}) {
    row.Prefill(RepeatedTokens(16, 8, 1));
    ASSERT_EQ(row.Update(row.Lesson(16, 0)).outcome, UpdateOutcome::kApplied);
    EXPECT_FALSE(SameBits(Scores(row), expected));
    row.Change(work);
    EXPECT_TRUE(SameBits(Scores(row), expected));
    row.Refresh(0);
  }
}

TEST_F(EngineLoopUpdateTest, AResetRowLearnsAsAFreshOne) {
  TestRow row = Repeating(), fresh = Repeating();
  ASSERT_EQ(row.Update(row.Lesson(16, 16)).outcome, UpdateOutcome::kApplied);
  row.Change(ResetWork{});
  row.Refresh(32);
  EXPECT_TRUE(at::equal(State(row), State(fresh)));
  for (TestRow* each : {&row, &fresh}) {
    UpdateWork lesson = each->Lesson(16, 16);
    lesson.epochs = 3;
    ASSERT_EQ(each->Update(lesson).outcome, UpdateOutcome::kApplied);
  }
  EXPECT_TRUE(at::equal(State(row), State(fresh)));
}

TEST_F(EngineLoopUpdateTest, AnUpdateInFlightIsCancelledAtItsNextLayerAndNeverPublished) {
  for (const bool backward : {false, true}) {
    TestRow row = Repeating();
    ASSERT_EQ(row.Update(row.Lesson(16, 16)).outcome, UpdateOutcome::kApplied);
    const at::Tensor before = State(row);
    int passes = 0;
    const auto gate = std::make_shared<Gate>();
    engine_.hooks().train_forward = [&, gate](const TrainingBatch&) {
      ++passes;
      if (!backward) gate->Pass();
    };
    engine_.hooks().train_backward = [&, gate](const TrainingBatch&) {
      if (backward) gate->Pass();
    };
    UpdateWork lesson = row.Lesson(16, 16);
    lesson.epochs = 1000;
    const WorkId id = row.Submit(lesson);
    ASSERT_TRUE(gate->WaitForArrival());
    row.Cancel(id);
    // The loop has seen the cancellation once it has answered what came after it.
    TestRow(&engine_).Close();
    gate->Open();
    const UpdateDone done = row.sink().Wait<UpdateDone>(id);
    EXPECT_EQ(done.outcome, UpdateOutcome::kSkipped);
    EXPECT_EQ(done.reason, "cancelled");
    EXPECT_EQ(done.adapter_version, 1u);
    EXPECT_EQ(passes, 1);
    EXPECT_TRUE(at::equal(State(row), before));
    engine_.hooks() = {};
    row.Close();
  }
}

TEST_F(EngineLoopUpdateTest, ARowWaitsForItsUpdateWhileOthersGoOn) {
  TestRow row = Repeating(), other(&engine_);
  const auto gate = HoldTrainForward(engine_);
  const WorkId update = row.Submit(row.Lesson(16, 16));
  const WorkId generate = row.Submit(Greedy(3));
  ASSERT_TRUE(gate->WaitForArrival());
  other.Prefill(RandomTokens(20, 1));
  EXPECT_THAT(other.Generate(Greedy(5)).ids, SizeIs(5));
  EXPECT_THAT(row.sink().All<TextDelta>(generate), IsEmpty());
  gate->Open();
  EXPECT_EQ(row.sink().Wait<UpdateDone>(update).outcome, UpdateOutcome::kApplied);
  EXPECT_THAT(row.WaitGenerated(generate).versions, Each(1u));
}

// Rows with updates in flight at the same time learn each its own text.
TEST_F(EngineLoopUpdateTest, UpdatesOfSeveralRowsDoNotMeet) {
  TestRow alone = Repeating(Spec(4, 7));
  UpdateWork lesson = alone.Lesson(16, 16);
  lesson.epochs = 3;
  const UpdateDone expected = alone.Update(lesson);
  const at::Tensor learned = State(alone);
  alone.Close();

  TestRow other(&engine_, Spec(8, 1)), beside = Repeating(Spec(4, 7));
  other.Prefill(RandomTokens(32, 9));
  const WorkId a = other.Submit(other.Lesson(20, 12));
  const WorkId b = beside.Submit(lesson);
  EXPECT_EQ(other.sink().Wait<UpdateDone>(a).outcome, UpdateOutcome::kApplied);
  const UpdateDone done = beside.sink().Wait<UpdateDone>(b);
  EXPECT_EQ(done.outcome, UpdateOutcome::kApplied);
  ASSERT_THAT(done.losses, SizeIs(3));
  // Trained together, their products have more rows and may add in another order; Adam divides by
  // the root of small second moments, which magnifies that.
  EXPECT_NEAR(done.losses.back(), expected.losses.back(), 1e-3);
  EXPECT_LT((State(beside) - learned).abs().max().item<double>(), 2e-3);
}

}  // namespace
}  // namespace mayfly
