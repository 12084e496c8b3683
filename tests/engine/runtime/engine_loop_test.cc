// Rows, reading and scoring; generation, updates, ends, faults and identities have files of their
// own beside this one.

#include "engine/runtime/engine_loop.h"

#include <algorithm>
#include <cmath>
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

class EngineLoopTest : public testing::Test {
 protected:
  TinyEngine engine_;
};

TEST_F(EngineLoopTest, EveryRowIsGivenAndOneMoreIsRefused) {
  TestRow first(&engine_), second(&engine_);
  EXPECT_NE(first.handle().row, second.handle().row);
  EXPECT_EQ(engine_.loop().free_rows(), 0);
  const auto sink = std::make_shared<RecordingSink>();
  EXPECT_THAT(engine_.loop().Open({Spec(), 16}, sink), IsOk());
  EXPECT_THAT(sink->Wait<RowRefused>().status,
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("2 rows are taken; ")));
  first.Close();
  EXPECT_THAT(engine_.loop().Open({Spec(), 16}, sink), IsOk());
  EXPECT_EQ(sink->Wait<RowOpened>().row.row, first.handle().row);
}

TEST_F(EngineLoopTest, ARowReportsTheBytesThatEveryRowReserves) {
  const TestRow row(&engine_), off(&engine_, Spec(0));
  const RowBytes expected = engine_.adapters().layout().row_bytes();
  for (const RowBytes& bytes : {row.opened().bytes, off.opened().bytes}) {
    EXPECT_EQ(bytes.kv, expected.kv);
    EXPECT_EQ(bytes.adapter, expected.adapter);
    EXPECT_EQ(bytes.optimizer, expected.optimizer);
  }
}

TEST_F(EngineLoopTest, TheGaugesCountRows) {
  TestRow row(&engine_);
  EXPECT_EQ(engine_.metrics().rows_free.value(), 1);
  EXPECT_EQ(engine_.metrics().rows_active.value(), 1);
  row.Close();
  EXPECT_EQ(engine_.metrics().rows_free.value(), 2);
  EXPECT_EQ(engine_.metrics().rows_active.value(), 0);
  EXPECT_EQ(engine_.metrics().rows_closing.value(), 0);
}

TEST_F(EngineLoopTest, TokenizesBesideTheRows) {
  const auto sink = std::make_shared<RecordingSink>();
  engine_.loop().Tokenize("abc", 3, sink);
  EXPECT_EQ(*sink->Wait<Tokenized>(3).tokens, TinyTokens("abc"));
}

// ---- Reading -------------------------------------------------------------------------------

TEST_F(EngineLoopTest, OnlyTheFirstTokenOfAStreamHasNoScore) {
  TestRow row(&engine_);
  const std::vector<float> first = row.Prefill(RandomTokens(5, 1)).logprobs;
  ASSERT_THAT(first, SizeIs(5));
  EXPECT_TRUE(std::isnan(first[0]));
  for (size_t i = 1; i < first.size(); ++i) EXPECT_LT(first[i], 0) << i;
  const std::vector<float> second = row.Prefill(RandomTokens(3, 2)).logprobs;
  ASSERT_THAT(second, SizeIs(3));
  EXPECT_THAT(second, Each(testing::Lt(0.0f)));
}

TEST_F(EngineLoopTest, ScoresComeOnlyWhenTheyAreAskedFor) {
  TestRow row(&engine_);
  const Scored plain = row.Prefill(RandomTokens(5, 1), /*score=*/false);
  EXPECT_THAT(plain.logprobs, IsEmpty());
  EXPECT_THAT(plain.base_logprobs, IsEmpty());
  EXPECT_EQ(plain.tokens_done, 5);
  const Scored base = row.Prefill(RandomTokens(5, 2), /*score=*/false, /*score_base=*/true);
  EXPECT_THAT(base.logprobs, IsEmpty());
  EXPECT_THAT(base.base_logprobs, SizeIs(5));
}

TEST_F(EngineLoopTest, HowATextIsCutIntoPiecesChangesNoScore) {
  const std::vector<TokenId> tokens = RandomTokens(40, 1);
  TestRow whole(&engine_), pieces(&engine_);
  const std::vector<float> expected = whole.Prefill(tokens).logprobs;
  std::vector<float> scores;
  for (const auto& [begin, end] : {std::pair{0, 1}, {1, 2}, {2, 19}, {19, 40}}) {
    const Scored part = pieces.Prefill({tokens.begin() + begin, tokens.begin() + end});
    scores.insert(scores.end(), part.logprobs.begin(), part.logprobs.end());
  }
  // Other products, another order of summation.
  EXPECT_LT(GreatestDifference(scores, expected), 1e-4);
}

TEST_F(EngineLoopTest, HowManyTokensAStepHoldsChangesNoScore) {
  const std::vector<TokenId> tokens = RandomTokens(40, 1);
  const std::vector<float> expected = TestRow(&engine_).Prefill(tokens).logprobs;
  for (const int32_t step_tokens : {1, 7, 64}) {
    TinyEngine engine({.step_tokens = step_tokens});
    EXPECT_LT(GreatestDifference(TestRow(&engine).Prefill(tokens).logprobs, expected), 1e-4)
        << step_tokens;
  }
}

TEST_F(EngineLoopTest, NothingIsAnAppendToo) {
  TestRow row(&engine_);
  EXPECT_EQ(row.Prefill({}).tokens_done, 0);
  row.Prefill(RandomTokens(5, 1));
  EXPECT_EQ(row.Prefill({}, true, true).tokens_done, 0);
}

TEST_F(EngineLoopTest, TheWindowHoldsWhatItHoldsAndRefusesOneMore) {
  TestRow row(&engine_, Spec(), /*window_tokens=*/10);
  row.Prefill(RandomTokens(7, 1));
  const WorkId id = row.Submit(PrefillWork{RandomTokens(4, 2)});
  const WorkFailed failed = row.sink().Wait<WorkFailed>(id);
  EXPECT_THAT(failed.status, StatusIs(absl::StatusCode::kOutOfRange,
                                      testing::AllOf(HasSubstr("7 of 10"), HasSubstr("4 more"))));
  EXPECT_EQ(failed.tokens_done, 0);
  EXPECT_EQ(row.Prefill(RandomTokens(3, 3)).tokens_done, 3);
}

// A refresh adds no tokens, so it runs beside the generation.
TEST_F(EngineLoopTest, WorkThatAddsTokensIsDoneInTheOrderOfItsSubmission) {
  TestRow row(&engine_);
  row.Submit(PrefillWork{RandomTokens(30, 1), true});
  row.Submit(Greedy(4));
  row.Submit(row.Keeping(12));
  row.Submit(PrefillWork{RandomTokens(3, 2), true});
  row.Submit(CheckpointWork{});
  row.sink().Wait<AdapterChanged>(5);
  std::vector<WorkId> ends;
  for (const EngineEvent& event : row.sink().events()) {
    if (!std::holds_alternative<TextDelta>(event.body)) ends.push_back(event.work_id);
  }
  EXPECT_THAT(ends, testing::ElementsAre(0, 1, 3, 2, 4, 5));
}

// ---- Comparing with the base ---------------------------------------------------------------

TEST_F(EngineLoopTest, ScoringTheBaseLaterGivesWhatComparingAtOnceGave) {
  TestRow row(&engine_);
  const Scored scored = row.Prefill(RandomTokens(30, 1), true, /*score_base=*/true);
  const Scored later = row.sink().Wait<Scored>(row.Submit(ScoreBaseWork{.begin = 10, .end = 30}));
  EXPECT_EQ(later.tokens_done, 20);
  EXPECT_THAT(later.logprobs, IsEmpty());
  const std::vector<float> expected(scored.base_logprobs.begin() + 10, scored.base_logprobs.end());
  // The comparison starts where the earlier one's keys end: other steps.
  EXPECT_LT(GreatestDifference(later.base_logprobs, expected), 1e-4);
}

TEST_F(EngineLoopTest, TokensOutsideTheWindowCannotBeCompared) {
  TestRow row(&engine_);
  row.Prefill(RandomTokens(20, 1));
  row.Refresh(10);
  for (const auto& [begin, end] : {std::pair<uint64_t, uint64_t>{9, 20}, {10, 21}, {15, 15}}) {
    const WorkId id = row.Submit(ScoreBaseWork{begin, end});
    EXPECT_THAT(row.sink().Wait<WorkFailed>(id).status,
                StatusIs(absl::StatusCode::kOutOfRange, HasSubstr("10..20")));
  }
  const WorkId id = row.Submit(ScoreBaseWork{10, 20});
  EXPECT_TRUE(std::isnan(row.sink().Wait<Scored>(id).base_logprobs.at(0)));
}

TEST_F(EngineLoopTest, RowsThatCompareAtTheSameTimeGetTheirOwnScores) {
  TestRow first(&engine_), second(&engine_);
  const std::vector<TokenId> text[] = {RandomTokens(30, 1), RandomTokens(40, 2)};
  const WorkId a = first.Submit(PrefillWork{text[0], true, true});
  const WorkId b = second.Submit(PrefillWork{text[1], true, true});
  // Nothing is learned, so each row's own scores are the base's, up to the shapes of the steps that
  // the two shared.
  const Scored scored[] = {first.sink().Wait<Scored>(a), second.sink().Wait<Scored>(b)};
  for (const Scored& row : scored) {
    EXPECT_LT(GreatestDifference(row.base_logprobs, row.logprobs), 1e-4);
  }
}

// ---- Starting again from the newest tokens -------------------------------------------------

TEST_F(EngineLoopTest, ARefreshedRowIsARowThatNeverSawMore) {
  TestRow long_row(&engine_), short_row(&engine_);
  const std::vector<TokenId> tokens = RandomTokens(50, 1), next = RandomTokens(9, 2);
  long_row.Prefill(tokens);
  long_row.Refresh(20);
  short_row.Prefill({tokens.end() - 20, tokens.end()});
  EXPECT_TRUE(SameBits(long_row.Prefill(next).logprobs, short_row.Prefill(next).logprobs));
  EXPECT_EQ(long_row.Generate(Greedy(5)).ids, short_row.Generate(Greedy(5)).ids);
}

TEST_F(EngineLoopTest, ARefreshMakesRoomAndNeverRestartsTheStream) {
  TestRow row(&engine_, Spec(), /*window_tokens=*/16);
  row.Prefill(RandomTokens(16, 1));
  row.Refresh(6);
  row.Prefill(RandomTokens(10, 2));
  GenerateWork work = Greedy(5);
  work.horizon = 26;  // positions of the stream, not of the window
  const WorkId id = row.Submit(work);
  EXPECT_EQ(row.sink().Wait<GenerationPaused>(id).position, 26u);
}

TEST_F(EngineLoopTest, ARefreshThatKeepsMoreThanThereIsRecomputesAll) {
  TestRow row(&engine_), same(&engine_);
  for (TestRow* each : {&row, &same}) each->Prefill(RandomTokens(20, 1));
  row.Refresh(1000);
  EXPECT_TRUE(SameBits(row.Prefill(RandomTokens(9, 2)).logprobs,
                       same.Prefill(RandomTokens(9, 2)).logprobs));
}

TEST_F(EngineLoopTest, ARefreshThatKeepsNothingEmptiesTheWindow) {
  TestRow row(&engine_);
  row.Prefill(RandomTokens(20, 1));
  row.Refresh(0);
  EXPECT_THAT(row.sink().Wait<WorkFailed>(row.Submit(Greedy(1))).status,
              HasCode(absl::StatusCode::kFailedPrecondition));
  EXPECT_TRUE(std::isnan(row.Prefill(RandomTokens(2, 2)).logprobs.at(0)));
}

// ---- Cancelling ----------------------------------------------------------------------------

TEST_F(EngineLoopTest, WaitingWorkOfEveryKindCanBeCancelled) {
  TestRow row(&engine_);
  row.Prefill(RandomTokens(20, 1));
  const auto gate = HoldForward(engine_, 1);
  const WorkId running = row.Submit(PrefillWork{RandomTokens(5, 2)});
  ASSERT_TRUE(gate->WaitForArrival());
  const UpdateWork lesson = row.Lesson(8, 8);
  const WorkId generate = row.Submit(Greedy(3)), update = row.Submit(lesson);
  std::vector<WorkId> others;
  for (RowWork& work :
       std::vector<RowWork>{PrefillWork{RandomTokens(3, 3)}, RefreshWork{5}, ScoreBaseWork{0, 5},
                            CheckpointWork{}, RollBackWork{}, ResetWork{}}) {
    others.push_back(row.Submit(std::move(work)));
  }
  for (WorkId id = generate; id <= others.back(); ++id) row.Cancel(id);
  gate->Open();

  const GenerationDone done = row.sink().Wait<GenerationDone>(generate);
  EXPECT_EQ(done.reason, FinishReason::kCancelled);
  EXPECT_EQ(done.tokens, 0);
  EXPECT_EQ(row.sink().Wait<UpdateDone>(update).outcome, UpdateOutcome::kSkipped);
  for (const WorkId id : others) {
    EXPECT_THAT(row.sink().Wait<WorkFailed>(id).status, HasCode(absl::StatusCode::kCancelled));
  }
  row.sink().Wait<Scored>(running);
  // Nothing of it was done: the next tokens follow the running prefill's.
  TestRow expected(&engine_);
  expected.Prefill(RandomTokens(20, 1));
  expected.Prefill(RandomTokens(5, 2));
  EXPECT_TRUE(SameBits(row.Prefill(RandomTokens(4, 4)).logprobs,
                       expected.Prefill(RandomTokens(4, 4)).logprobs));
}

TEST_F(EngineLoopTest, CancellingWhatIsNotThereDoesNothing) {
  TestRow row(&engine_);
  row.Cancel(99);
  row.Prefill(RandomTokens(5, 1));
  row.Cancel(1);
  engine_.loop().Cancel({1, 1}, 1);
  engine_.loop().Cancel({-1, 0}, 1);
  EXPECT_EQ(row.Prefill(RandomTokens(5, 2)).tokens_done, 5);
  EXPECT_THAT(row.sink().events(), SizeIs(3));
}

// A long append is cancelled in its second step, the row goes on with what it has taken.
TEST_F(EngineLoopTest, ACancelledPrefillKeepsWhatItHasRead) {
  TestRow row(&engine_), same(&engine_);
  const std::vector<TokenId> tokens = RandomTokens(60, 1);
  const auto gate = HoldForward(engine_, 2);
  const WorkId id = row.Submit(PrefillWork{tokens, true});
  ASSERT_TRUE(gate->WaitForArrival());
  row.Cancel(id);
  gate->Open();
  const WorkFailed failed = row.sink().Wait<WorkFailed>(id);
  EXPECT_THAT(failed.status, HasCode(absl::StatusCode::kCancelled));
  ExpectGoesOnAfter(row, same, tokens, failed.tokens_done);
}

TEST_F(EngineLoopTest, ACancelledRefreshLosesNoToken) {
  TestRow row(&engine_), same(&engine_);
  for (TestRow* each : {&row, &same}) each->Prefill(RandomTokens(60, 1));
  const auto gate = HoldForward(engine_, 2);
  const WorkId id = row.Submit(row.Keeping(40));
  ASSERT_TRUE(gate->WaitForArrival());
  row.Cancel(id);
  gate->Open();
  EXPECT_THAT(row.sink().Wait<WorkFailed>(id).status, HasCode(absl::StatusCode::kCancelled));
  same.Refresh(40);
  // The row computes the missing keys together with the next tokens.
  EXPECT_LT(GreatestDifference(row.Prefill(RandomTokens(4, 2)).logprobs,
                               same.Prefill(RandomTokens(4, 2)).logprobs),
            1e-4);
}

TEST_F(EngineLoopTest, ACancelledComparisonKeepsTheTokensAndFreesTheBaseRow) {
  TestRow row(&engine_), other(&engine_);
  const auto gate = HoldForwardOf(engine_, engine_.kv().base_row());
  const WorkId id = row.Submit(PrefillWork{RandomTokens(40, 1), true, /*score_base=*/true});
  ASSERT_TRUE(gate->WaitForArrival());
  row.Cancel(id);
  gate->Open();
  const WorkFailed failed = row.sink().Wait<WorkFailed>(id);
  EXPECT_THAT(failed.status, HasCode(absl::StatusCode::kCancelled));
  EXPECT_EQ(failed.tokens_done, 40);
  const Scored compared = other.Prefill(RandomTokens(30, 2), true, true);
  EXPECT_TRUE(SameBits(compared.logprobs, compared.base_logprobs));
}

TEST_F(EngineLoopTest, HandlesOfNobodyAreIgnored) {
  TestRow row(&engine_);
  for (const RowHandle handle : {RowHandle{}, RowHandle{0, 99}, RowHandle{1, 1}, RowHandle{7, 1}}) {
    engine_.loop().Submit(handle, 1, PrefillWork{RandomTokens(5, 1)});
    engine_.loop().Advance(handle, 1, 10);
    engine_.loop().Cancel(handle, 1);
    engine_.loop().Close(handle);
  }
  EXPECT_EQ(row.Prefill(RandomTokens(5, 1)).tokens_done, 5);
  EXPECT_THAT(row.sink().events(), SizeIs(2));
  EXPECT_EQ(engine_.loop().free_rows(), 1);
}

}  // namespace
}  // namespace mayfly
