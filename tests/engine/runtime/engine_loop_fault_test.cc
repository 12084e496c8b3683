// What fails takes down what it was working for and nothing else.

#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/tiny_engine.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

using ::testing::HasSubstr;

struct Fault {
  std::string name;
  std::function<void()> raise;
  absl::StatusCode code;
  std::string message;
};

const Fault kFaults[] = {
    {"Exception", [] { throw std::runtime_error("on purpose"); }, absl::StatusCode::kInternal,
     "on purpose"},
    {"Torch", [] { TORCH_CHECK(false, "on purpose"); }, absl::StatusCode::kInternal, "on purpose"},
    {"BadAlloc", [] { throw std::bad_alloc(); }, absl::StatusCode::kResourceExhausted,
     "out of memory"},
    {"DeviceMemory", [] { TORCH_CHECK_WITH(OutOfMemoryError, false, "on purpose"); },
     absl::StatusCode::kResourceExhausted, "on purpose"},
};

void PrintTo(const Fault& fault, std::ostream* out) { *out << fault.name; }

class FaultTest : public testing::TestWithParam<Fault> {
 protected:
  // The `call`-th forward pass from now fails, and no other.
  void FailForward(int call) {
    engine_.hooks().forward = [left = call](const auto&) mutable {
      if (--left == 0) GetParam().raise();
    };
  }
  void ExpectFault(const absl::Status& status) {
    EXPECT_THAT(status, StatusIs(GetParam().code, HasSubstr(GetParam().message)));
    EXPECT_TRUE(engine_.loop().healthy());
  }
  // The adapter of a row: masters, moments and what is served.
  at::Tensor State(const TestRow& row) {
    const AdapterState state = engine_.adapters().State(row.handle().row);
    return at::cat({state.serving, state.master, state.moment1, state.moment2});
  }

  TinyEngine engine_;
};

TEST_P(FaultTest, AFailedPrefillSaysWhatItReadAndTheRowGoesOnFromThere) {
  TestRow row(&engine_), same(&engine_);
  const std::vector<TokenId> tokens = RandomTokens(60, 1);
  FailForward(2);
  const WorkId id = row.Submit(PrefillWork{tokens, true});
  const WorkFailed failed = row.sink().Wait<WorkFailed>(id);
  ExpectFault(failed.status);
  ExpectGoesOnAfter(row, same, tokens, failed.tokens_done);
}

TEST_P(FaultTest, AFailedGenerationKeepsItsTokensAndTheRowGoesOn) {
  TestRow row(&engine_), same(&engine_);
  for (TestRow* each : {&row, &same}) each->Prefill(RandomTokens(12, 1));
  const std::vector<TokenId> expected = same.Generate(Greedy(10)).ids;
  FailForward(4);
  const WorkId id = row.Submit(Greedy(10));
  const WorkFailed failed = row.sink().Wait<WorkFailed>(id);
  ExpectFault(failed.status);
  EXPECT_EQ(failed.tokens_done, 3);
  const std::vector<TokenId> rest = row.Generate(Greedy(7)).ids;
  EXPECT_EQ(rest, std::vector<TokenId>(expected.begin() + 3, expected.end()));
}

TEST_P(FaultTest, AFailedRefreshLosesNoToken) {
  TestRow row(&engine_), same(&engine_);
  for (TestRow* each : {&row, &same}) each->Prefill(RandomTokens(60, 1));
  FailForward(1);
  ExpectFault(row.sink().Wait<WorkFailed>(row.Submit(row.Keeping(40))).status);
  same.Refresh(40);
  EXPECT_LT(GreatestDifference(row.Prefill(RandomTokens(4, 2)).logprobs,
                               same.Prefill(RandomTokens(4, 2)).logprobs),
            1e-4);
}

TEST_P(FaultTest, AFailedComparisonLeavesTheBaseRowToOthers) {
  TestRow row(&engine_), other(&engine_);
  row.Prefill(RandomTokens(30, 1));
  FailForward(1);
  ExpectFault(row.sink().Wait<WorkFailed>(row.Submit(ScoreBaseWork{5, 30})).status);
  const Scored scored = other.Prefill(RandomTokens(30, 2), true, /*score_base=*/true);
  EXPECT_TRUE(SameBits(scored.logprobs, scored.base_logprobs));
}

TEST_P(FaultTest, OnlyTheSequencesOfTheStepEnd) {
  TinyEngine engine({.rows = 3});
  TestRow failing(&engine), paused(&engine), waiting(&engine);
  for (TestRow* row : {&failing, &paused, &waiting}) row->Prefill(RandomTokens(12, 1));
  GenerateWork work = Greedy(6);
  work.horizon = 14;
  const WorkId generate = paused.Submit(work);
  paused.sink().Wait<GenerationPaused>(generate);
  engine.hooks().forward = [row = failing.handle().row](const auto& segments) {
    for (const ForwardSegment& segment : segments) {
      if (segment.row == row) GetParam().raise();
    }
  };
  failing.sink().Wait<WorkFailed>(failing.Submit(Greedy(5)));
  engine.hooks().forward = nullptr;
  paused.Advance(generate, 1000);
  const std::vector<TokenId> ids = paused.WaitGenerated(generate).ids;
  EXPECT_EQ(waiting.Generate(Greedy(6)).ids, ids);
  EXPECT_EQ(failing.Generate(Greedy(6)).ids, ids);
}

TEST_P(FaultTest, EverySequenceOfTheStepIsTold) {
  TestRow first(&engine_), second(&engine_);
  for (TestRow* row : {&first, &second}) row->Prefill(RandomTokens(12, 1));
  // Held in a step of the first, so that both are in the next one.
  const auto gate = std::make_shared<Gate>();
  engine_.hooks().forward = [gate](const std::vector<ForwardSegment>& segments) {
    gate->Pass();
    if (segments.size() == 2) GetParam().raise();
  };
  const WorkId a = first.Submit(Greedy(20));
  ASSERT_TRUE(gate->WaitForArrival());
  const WorkId b = second.Submit(Greedy(20));
  gate->Open();
  ExpectFault(first.sink().Wait<WorkFailed>(a).status);
  ExpectFault(second.sink().Wait<WorkFailed>(b).status);
}

TEST_P(FaultTest, AFailedUpdateChangesNothingAndTheSessionGoesOn) {
  TestRow row(&engine_), same(&engine_);
  for (TestRow* each : {&row, &same}) {
    each->Prefill(RandomTokens(32, 1));
    ASSERT_EQ(each->Update(each->Lesson(16, 16)).outcome, UpdateOutcome::kApplied);
  }
  const at::Tensor before = State(row);
  for (const bool backward : {false, true}) {
    const auto fail = [calls = 0](const TrainingBatch&) mutable {
      if (++calls == 2) GetParam().raise();  // in the second epoch, when there is much to undo
    };
    (backward ? engine_.hooks().train_backward : engine_.hooks().train_forward) = fail;
    UpdateWork lesson = row.Lesson(16, 16);
    lesson.epochs = 3;
    const UpdateDone done = row.Update(lesson);
    EXPECT_EQ(done.outcome, UpdateOutcome::kFailed);
    EXPECT_THAT(done.reason, HasSubstr(GetParam().message));
    EXPECT_EQ(done.adapter_version, 1u);
    EXPECT_TRUE(at::equal(State(row), before));
    engine_.hooks() = {};
  }
  EXPECT_TRUE(engine_.loop().healthy());
  for (TestRow* each : {&row, &same}) {
    ASSERT_EQ(each->Update(each->Lesson(16, 16)).outcome, UpdateOutcome::kApplied);
  }
  EXPECT_TRUE(at::equal(State(row), State(same)));
  EXPECT_EQ(row.Generate(Greedy(5)).ids, same.Generate(Greedy(5)).ids);
}

TEST_P(FaultTest, ARowThatMetAFaultClosesLikeAnyOther) {
  TestRow row(&engine_);
  row.Prefill(RandomTokens(32, 1), true, /*score_base=*/true);
  engine_.hooks().train_backward = [](const TrainingBatch&) { GetParam().raise(); };
  row.Update(row.Lesson(16, 16));
  FailForward(1);
  row.sink().Wait<WorkFailed>(row.Submit(Greedy(3)));
  row.Close();
  EXPECT_TRUE(engine_.IsZero());
  EXPECT_EQ(engine_.loop().free_rows(), 2);
}

INSTANTIATE_TEST_SUITE_P(Kinds, FaultTest, testing::ValuesIn(kFaults),
                         [](const auto& tested) { return tested.param.name; });

// ---- Numbers that are none ---------------------------------------------------------------------

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class NotANumberTest : public testing::Test {
 protected:
  NotANumberTest() {
    for (TestRow* each : {&row_, &neighbour_}) each->Prefill(RandomTokens(32, 1));
  }
  at::Tensor Masters(const TestRow& row) {
    return engine_.adapters().State(row.handle().row).master.clone();
  }

  TinyEngine engine_;
  TestRow row_{&engine_};
  TestRow neighbour_{&engine_};
};

TEST_F(NotANumberTest, AGradientThatIsNoneFailsItsUpdateAndTheNextOneIsLearned) {
  const at::Tensor before = Masters(row_);
  engine_.hooks().train_backward = [](const TrainingBatch& batch) {
    batch.segments.at(0).gradients->elements.fill_(kNan);
  };
  const UpdateDone failed = row_.Update(row_.Lesson(16, 16));
  EXPECT_EQ(failed.outcome, UpdateOutcome::kFailed);
  EXPECT_EQ(failed.reason, "a gradient is not finite");
  EXPECT_EQ(failed.adapter_version, 0u);
  EXPECT_TRUE(at::equal(Masters(row_), before));
  engine_.hooks() = {};
  for (TestRow* each : {&row_, &neighbour_}) {
    EXPECT_EQ(each->Update(each->Lesson(16, 16)).outcome, UpdateOutcome::kApplied);
  }
  EXPECT_TRUE(at::equal(Masters(row_), Masters(neighbour_)));
}

TEST_F(NotANumberTest, LogitsThatAreNoneFailTheirGenerationAloneAndDrawNoToken) {
  // Held in a step of the row's, so that its neighbour is beside it in a later one, which is
  // spoilt.
  const auto gate = std::make_shared<Gate>();
  int64_t place = 0;
  engine_.hooks().forward = [&, gate](const std::vector<ForwardSegment>& segments) {
    gate->Pass();
    place = segments[0].row == row_.handle().row ? 0 : 1;
  };
  engine_.hooks().logits = [&](at::Tensor& logits) {
    if (logits.size(0) == 2) logits[place][5] = kNan;
  };
  const WorkId spoilt = row_.Submit(Greedy(20));
  ASSERT_TRUE(gate->WaitForArrival());
  const WorkId whole = neighbour_.Submit(Greedy(20));
  gate->Open();
  const WorkFailed failed = row_.sink().Wait<WorkFailed>(spoilt);
  EXPECT_THAT(failed.status, StatusIs(absl::StatusCode::kInternal, HasSubstr("not finite")));
  EXPECT_TRUE(engine_.loop().healthy());
  const std::vector<TokenId> expected = neighbour_.WaitGenerated(whole).ids;
  ASSERT_EQ(expected.size(), 20u);
  engine_.hooks() = {};
  const int32_t left = 20 - failed.tokens_done;
  EXPECT_EQ(row_.Generate(Greedy(left)).ids,
            std::vector<TokenId>(expected.end() - left, expected.end()));
}

// ---- Memory that can no longer be written ------------------------------------------------------

TEST(BrokenMemoryTest, ARowThatCannotBeZeroedFailsTheEngineAndIsGivenToNobody) {
  TinyEngine engine;
  TestRow row(&engine), other(&engine);
  for (TestRow* each : {&row, &other}) each->Prefill(RandomTokens(12, 1));
  engine.kv().Keys(0, 0).storage().unsafeGetStorageImpl()->set_throw_on_mutable_data_ptr();
  engine.loop().Close(row.handle());
  for (TestRow* each : {&row, &other}) {
    EXPECT_THAT(each->sink().Wait<EngineFailed>().status, HasCode(absl::StatusCode::kInternal));
  }
  EXPECT_FALSE(engine.loop().healthy());
  EXPECT_EQ(engine.loop().free_rows(), 0);
  EXPECT_EQ(row.sink().All<RowClosed>().size(), 0u);
}

}  // namespace
}  // namespace mayfly
