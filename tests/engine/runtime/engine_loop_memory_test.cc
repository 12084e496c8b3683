// Memory that runs out takes down the work that asked for it and nothing else, wherever in that
// work it runs out: each allocation of each kind of work fails in turn.

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/failing_allocator.h"
#include "tests/engine/tiny_engine.h"
#include "tests/support/eventually.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

using ::testing::HasSubstr;

// More than any work here allocates.
constexpr int64_t kMostAllocations = 20'000;
constexpr char kNoMemory[] = "can't allocate memory";

// Work that changes nothing where it fails.
struct Piece {
  std::string name;
  std::function<RowWork(TestRow&)> work;
};

UpdateWork Lesson(const TestRow& row, int32_t epochs, bool measure_after = false) {
  UpdateWork lesson = row.Lesson(16, 16);
  lesson.epochs = epochs;
  lesson.measure_after = measure_after;
  return lesson;
}

const Piece kPieces[] = {
    {"Prefill",
     [](TestRow&) {
       return PrefillWork{RandomTokens(8, 4), true};
     }},
    {"Generation", [](TestRow&) { return Sampled(1, 7); }},
    {"Refresh", [](TestRow& row) { return row.Keeping(12); }},
    {"Comparison",
     [](TestRow&) {
       return ScoreBaseWork{20, 32};
     }},
    {"Update", [](TestRow& row) { return Lesson(row, 1); }},
    {"UpdateOfEpochs", [](TestRow& row) { return Lesson(row, 3); }},
    {"UpdateThatIsMeasured", [](TestRow& row) { return Lesson(row, 1, /*measure_after=*/true); }},
    {"UpdateOfTheWindow",
     [](TestRow& row) {
       UpdateWork lesson = Lesson(row, 1);
       lesson.gradient_scope = GradientScope::kWindow;
       return lesson;
     }},
    {"Reset", [](TestRow&) { return ResetWork{}; }},
    {"Export", [](TestRow&) { return ExportWork{}; }},
    {"ExportOfTheAdapter", [](TestRow&) { return ExportWork{/*adapter_alone=*/true}; }},
};

void PrintTo(const Piece& piece, std::ostream* out) { *out << piece.name; }

class MemoryTest : public testing::TestWithParam<Piece> {
 protected:
  // All that is kept of a row's adapter.
  at::Tensor State(const TestRow& row) {
    const AdapterState state = engine_.adapters().State(row.handle().row);
    return at::cat({state.serving, state.master, state.moment1, state.moment2, state.checkpoint});
  }

  // Why the work failed; nothing where it did not.
  std::optional<absl::Status> WaitForEnd(TestRow& row, WorkId id) {
    std::optional<absl::Status> failure;
    EXPECT_TRUE(Eventually([&] {
      for (const EngineEvent& event : row.sink().events()) {
        if (event.work_id == id && Ends(event, &failure)) return true;
      }
      return false;
    }));
    return failure;
  }

  TinyEngine engine_;
  FailingAllocator memory_;

 private:
  static bool Ends(const EngineEvent& event, std::optional<absl::Status>* failure) {
    if (const auto* failed = std::get_if<WorkFailed>(&event.body)) *failure = failed->status;
    if (const auto* done = std::get_if<UpdateDone>(&event.body)) {
      if (done->outcome != UpdateOutcome::kApplied) {
        *failure = absl::ResourceExhaustedError(done->reason);
      }
    }
    return !std::holds_alternative<TextDelta>(event.body);
  }
};

TEST_P(MemoryTest, WhereverItRunsOutTheRowIsAsItWasAndGoesOn) {
  TestRow row(&engine_), same(&engine_);
  for (TestRow* each : {&row, &same}) {
    each->Prefill(RandomTokens(32, 1));
    ASSERT_EQ(each->Update(each->Lesson(16, 16)).outcome, UpdateOutcome::kApplied);
  }
  const at::Tensor before = State(row);
  int64_t call = 0;
  while (++call < kMostAllocations) {
    memory_.FailOnly(call);
    const std::optional<absl::Status> failure = WaitForEnd(row, row.Submit(GetParam().work(same)));
    if (!memory_.Disarm()) {
      ASSERT_EQ(failure, std::nullopt) << "although all memory was there";
      break;
    }
    ASSERT_TRUE(failure.has_value()) << "at allocation " << call;
    ASSERT_THAT(*failure, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr(kNoMemory)));
    ASSERT_TRUE(at::equal(State(row), before)) << "at allocation " << call;
    ASSERT_TRUE(engine_.loop().healthy());
  }
  EXPECT_GT(call, 1);
  EXPECT_LT(call, kMostAllocations);

  ASSERT_EQ(WaitForEnd(same, same.Submit(GetParam().work(same))), std::nullopt);
  EXPECT_TRUE(at::equal(State(row), State(same)));
  const Generated rest = row.Generate(Greedy(4)), expected = same.Generate(Greedy(4));
  EXPECT_EQ(rest.ids, expected.ids);
  EXPECT_LT(GreatestDifference(rest.logprobs, expected.logprobs), 1e-4);
  row.Close();
  same.Close();
  EXPECT_TRUE(engine_.IsZero());
}

INSTANTIATE_TEST_SUITE_P(Kinds, MemoryTest, testing::ValuesIn(kPieces),
                         [](const auto& tested) { return tested.param.name; });

class RowMemoryTest : public testing::Test {
 protected:
  // Opens a row while each allocation fails in turn, until none is left to fail.
  void ExpectRefusedAndZero(const RowOptions& options, int32_t free_rows) {
    for (int64_t call = 1; call < kMostAllocations; ++call) {
      const auto sink = std::make_shared<RecordingSink>();
      memory_.FailOnly(call);
      ASSERT_THAT(engine_.loop().Open(options, sink), IsOk());
      ASSERT_TRUE(Eventually([&] { return !sink->events().empty(); }));
      if (!memory_.Disarm()) {
        EXPECT_GT(call, 1);
        sink->Wait<RowOpened>();
        return;
      }
      const RowRefused refused = sink->Wait<RowRefused>();
      ASSERT_THAT(refused.status,
                  StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr(kNoMemory)));
      ASSERT_EQ(engine_.loop().free_rows(), free_rows);
    }
    ADD_FAILURE() << "it never had all it wanted";
  }

  TinyEngine engine_;
  FailingAllocator memory_;
};

TEST_F(RowMemoryTest, ARowThatCannotBeFilledIsRefusedAndStaysFree) {
  ExpectRefusedAndZero({.adapter = Spec(), .window_tokens = 64, .tenant = {}}, 2);
}

TEST_F(RowMemoryTest, MemoryThatDoesNotComeBackFailsTheEngineWhichTellsEverySession) {
  TestRow row(&engine_), other(&engine_);
  for (TestRow* each : {&row, &other}) each->Prefill(RandomTokens(12, 1));
  memory_.FailAll();
  const WorkId id = row.Submit(Greedy(3));
  EXPECT_THAT(row.sink().Wait<WorkFailed>(id).status,
              HasCode(absl::StatusCode::kResourceExhausted));
  for (TestRow* each : {&row, &other}) {
    EXPECT_THAT(each->sink().Wait<EngineFailed>().status,
                StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr(kNoMemory)));
  }
  EXPECT_FALSE(engine_.loop().healthy());
  EXPECT_THAT(engine_.loop().Open(RowOptions{}, nullptr), HasCode(absl::StatusCode::kUnavailable));
  // Zeroing needs no memory.
  for (TestRow* each : {&row, &other}) each->Close();
  memory_.Disarm();
  EXPECT_TRUE(engine_.IsZero());
}

}  // namespace
}  // namespace mayfly
