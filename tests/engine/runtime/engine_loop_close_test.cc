// Every way in which a session can end leaves its row as it was before: zero, free and good for the
// next one.

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/tiny_engine.h"
#include "tests/support/eventually.h"

namespace mayfly {
namespace {

using ::testing::IsEmpty;

// A session that reads, compares, learns and writes; what it saw, bit for bit.
struct Canary {
  std::vector<float> scores;
  std::vector<TokenId> ids;
  std::vector<double> losses;
};

Canary Sing(TinyEngine& engine) {
  TestRow row(&engine, Spec(4, 42));
  Canary canary;
  const auto add = [&](const std::vector<float>& scores) {
    canary.scores.insert(canary.scores.end(), scores.begin(), scores.end());
  };
  const Scored scored = row.Prefill(RandomTokens(32, 42), true, true);
  add(scored.logprobs);
  add(scored.base_logprobs);
  UpdateWork lesson = row.Lesson(16, 16);
  lesson.epochs = 2;
  canary.losses = row.Update(lesson).losses;
  row.Refresh(16);
  const Generated generated = row.Generate(Greedy(10));
  add(generated.logprobs);
  canary.ids = generated.ids;
  row.Close();
  return canary;
}

void ExpectSame(const Canary& a, const Canary& b) {
  EXPECT_TRUE(SameBits(a.scores, b.scores));
  EXPECT_EQ(a.ids, b.ids);
  EXPECT_EQ(a.losses, b.losses);
}

// Brings a row into the middle of something. The gate, where there is one, holds the engine there.
struct Busy {
  std::string name;
  std::function<std::shared_ptr<Gate>(TinyEngine&, TestRow&)> begin;
};

void Fill(TestRow& row) {
  row.Prefill(RandomTokens(32, 3), true, /*score_base=*/true);
  EXPECT_EQ(row.Update(row.Lesson(16, 16)).outcome, UpdateOutcome::kApplied);
}

std::shared_ptr<Gate> Held(const std::shared_ptr<Gate>& gate) {
  EXPECT_TRUE(gate->WaitForArrival());
  return gate;
}

UpdateWork LongLesson(const TestRow& row) {
  UpdateWork lesson = row.Lesson(16, 16);
  lesson.epochs = 1000;
  return lesson;
}

// Holds the trainer until its update is cancelled, so that the order is certain: the row closes
// while the pass runs.
void UntilCancelled(const TrainingBatch& batch) {
  EXPECT_TRUE(Eventually([&] { return !batch.proceed(); }));
}

const Busy kBusy[] = {
    {"JustOpened", [](TinyEngine&, TestRow&) { return nullptr; }},
    {"Idle",
     [](TinyEngine&, TestRow& row) {
       Fill(row);
       return nullptr;
     }},
    {"Prefill",
     [](TinyEngine& engine, TestRow& row) {
       const auto gate = HoldForward(engine, 2);
       row.Submit(PrefillWork{RandomTokens(60, 4), true});
       return Held(gate);
     }},
    {"Generation",
     [](TinyEngine& engine, TestRow& row) {
       Fill(row);
       const auto gate = HoldForward(engine, 3);
       row.Submit(Greedy(30));
       return Held(gate);
     }},
    {"PausedGeneration",
     [](TinyEngine&, TestRow& row) {
       Fill(row);
       GenerateWork work = Greedy(30);
       work.horizon = 34;
       row.sink().Wait<GenerationPaused>(row.Submit(work));
       return nullptr;
     }},
    {"UpdateForward",
     [](TinyEngine& engine, TestRow& row) {
       Fill(row);
       const auto arrived = std::make_shared<Gate>();
       arrived->Open();
       engine.hooks().train_forward = [arrived](const TrainingBatch& batch) {
         arrived->Pass();
         UntilCancelled(batch);
       };
       row.Submit(LongLesson(row));
       return Held(arrived);
     }},
    {"UpdateBackward",
     [](TinyEngine& engine, TestRow& row) {
       Fill(row);
       const auto arrived = std::make_shared<Gate>();
       arrived->Open();
       engine.hooks().train_backward = [arrived](const TrainingBatch& batch) {
         arrived->Pass();
         UntilCancelled(batch);
       };
       row.Submit(LongLesson(row));
       return Held(arrived);
     }},
    {"WaitingUpdate",
     [](TinyEngine& engine, TestRow& row) {
       Fill(row);
       const auto gate = HoldForward(engine, 1);
       row.Submit(PrefillWork{RandomTokens(8, 4)});
       row.Submit(row.Lesson(16, 16));
       return Held(gate);
     }},
    {"Refresh",
     [](TinyEngine& engine, TestRow& row) {
       row.Prefill(RandomTokens(60, 3));
       const auto gate = HoldForward(engine, 2);
       row.Submit(row.Keeping(50));
       return Held(gate);
     }},
    {"Comparison",
     [](TinyEngine& engine, TestRow& row) {
       const auto gate = HoldForwardOf(engine, engine.kv().base_row());
       row.Submit(PrefillWork{RandomTokens(60, 4), true, /*score_base=*/true});
       return Held(gate);
     }},
    {"WorkWaiting",
     [](TinyEngine& engine, TestRow& row) {
       Fill(row);
       const auto gate = HoldForward(engine, 1);
       row.Submit(PrefillWork{RandomTokens(8, 4), true, true});
       row.Submit(Greedy(20));
       row.Submit(row.Keeping(8));
       row.Submit(CheckpointWork{});
       row.Submit(ResetWork{});
       return Held(gate);
     }},
};

void PrintTo(const Busy& busy, std::ostream* out) { *out << busy.name; }

class CloseTest : public testing::TestWithParam<Busy> {
 protected:
  // Closes the row in the middle of what the parameter names, and waits for its end.
  RowClosed CloseInTheMiddle(TestRow& row) {
    const std::shared_ptr<Gate> gate = GetParam().begin(engine_, row);
    engine_.loop().Close(row.handle());
    if (gate != nullptr) gate->Open();
    const RowClosed closed = row.sink().Wait<RowClosed>();
    engine_.hooks() = {};
    return closed;
  }

  TinyEngine engine_;
};

TEST_P(CloseTest, TheRowIsZeroAndFreeAndGivesBackWhatItTook) {
  TestRow row(&engine_);
  const RowClosed closed = CloseInTheMiddle(row);
  EXPECT_TRUE(engine_.IsZero());
  EXPECT_EQ(engine_.loop().free_rows(), 2);
  EXPECT_EQ(closed.freed.kv, row.opened().bytes.kv);
  EXPECT_EQ(closed.freed.adapter, row.opened().bytes.adapter);
  EXPECT_EQ(closed.freed.optimizer, row.opened().bytes.optimizer);
}

TEST_P(CloseTest, NothingIsHeardOfTheRowAfterItsEnd) {
  TestRow row(&engine_);
  CloseInTheMiddle(row);
  Sing(engine_);  // in the same row, while a late event of the old session could still come
  engine_.loop().Submit(row.handle(), 99, PrefillWork{RandomTokens(5, 1)});
  engine_.loop().Close(row.handle());
  Sing(engine_);
  const std::vector<EngineEvent> events = row.sink().events();
  EXPECT_TRUE(std::holds_alternative<RowClosed>(events.back().body));
  EXPECT_EQ(row.sink().All<RowClosed>().size(), 1u);
}

TEST_P(CloseTest, TheNextSessionInTheRowIsAsInAFreshEngine) {
  TinyEngine fresh;
  const Canary expected = Sing(fresh);
  TestRow row(&engine_);
  CloseInTheMiddle(row);
  ExpectSame(Sing(engine_), expected);
  EXPECT_TRUE(engine_.IsZero());
}

TEST_P(CloseTest, AnOldHandleDoesNothingToTheNextSession) {
  TestRow row(&engine_);
  CloseInTheMiddle(row);
  TestRow next(&engine_);
  ASSERT_EQ(next.handle().row, row.handle().row);
  EXPECT_NE(next.handle().generation, row.handle().generation);
  next.Prefill(RandomTokens(5, 1));
  GenerateWork work = Greedy(5);
  work.horizon = 6;
  const WorkId id = next.Submit(work);
  next.sink().Wait<GenerationPaused>(id);
  engine_.loop().Cancel(row.handle(), id);
  engine_.loop().Advance(row.handle(), id, 1000);
  engine_.loop().Submit(row.handle(), 50, PrefillWork{RandomTokens(5, 1)});
  engine_.loop().Close(row.handle());
  next.Advance(id, 7);
  EXPECT_EQ(next.sink().Wait<GenerationPaused>(id, 2).position, 7u);
  EXPECT_THAT(next.sink().All<GenerationDone>(id), IsEmpty());
}

TEST_P(CloseTest, TheNeighbourGoesOnUntouched) {
  TestRow neighbour(&engine_, Spec(4, 9));
  neighbour.Prefill(RandomTokens(20, 8), true, true);
  const int64_t row_index = neighbour.handle().row;
  const at::Tensor keys = engine_.kv().Keys(row_index, 0).clone();
  const at::Tensor master = engine_.adapters().State(row_index).master.clone();
  TestRow row(&engine_);
  CloseInTheMiddle(row);
  EXPECT_TRUE(at::equal(engine_.kv().Keys(row_index, 0), keys));
  EXPECT_TRUE(at::equal(engine_.adapters().State(row_index).master, master));
  EXPECT_EQ(neighbour.Generate(Greedy(5)).done.tokens, 5);
  neighbour.Close();
  EXPECT_TRUE(engine_.IsZero());
}

TEST_P(CloseTest, AnEngineThatGoesInTheMiddleGoesInOrder) {
  auto engine = std::make_unique<TinyEngine>();
  TestRow row(engine.get());
  const std::shared_ptr<Gate> gate = GetParam().begin(*engine, row);
  std::thread end([&] { engine.reset(); });
  if (gate != nullptr) gate->Open();
  end.join();
}

INSTANTIATE_TEST_SUITE_P(Middles, CloseTest, testing::ValuesIn(kBusy),
                         [](const auto& tested) { return tested.param.name; });

class EngineLoopCloseTest : public testing::Test {
 protected:
  TinyEngine engine_;
};

TEST_F(EngineLoopCloseTest, AnUpdateInFlightIsNeverPublished) {
  TestRow row(&engine_);
  row.Prefill(RandomTokens(32, 3));
  int passes = 0;
  Gate arrived;
  arrived.Open();
  engine_.hooks().train_forward = [&](const TrainingBatch& batch) {
    ++passes;
    arrived.Pass();
    UntilCancelled(batch);
  };
  const WorkId id = row.Submit(LongLesson(row));
  ASSERT_TRUE(arrived.WaitForArrival());
  row.Close();
  EXPECT_EQ(passes, 1);
  EXPECT_THAT(row.sink().All<UpdateDone>(id), IsEmpty());
  EXPECT_TRUE(engine_.IsZero());
}

TEST_F(EngineLoopCloseTest, ARowWithAnUpdateInFlightIsNotGivenAwayBeforeTheUpdateIsOver) {
  TinyEngine engine({.rows = 1});
  TestRow row(&engine);
  row.Prefill(RandomTokens(32, 3));
  const auto gate = HoldTrainForward(engine);
  row.Submit(row.Lesson(16, 16));
  ASSERT_TRUE(gate->WaitForArrival());
  engine.loop().Close(row.handle());
  const auto sink = std::make_shared<RecordingSink>();
  ASSERT_TRUE(engine.loop().Open({Spec(), 64}, sink).ok());
  EXPECT_FALSE(sink->Wait<RowRefused>().status.ok());
  EXPECT_EQ(engine.metrics().rows_closing.value(), 1);
  EXPECT_EQ(engine.loop().free_rows(), 0);
  gate->Open();
  row.sink().Wait<RowClosed>();
  EXPECT_EQ(engine.loop().free_rows(), 1);
  EXPECT_TRUE(engine.IsZero());
}

TEST_F(EngineLoopCloseTest, ClosingTwiceEndsOnce) {
  TestRow row(&engine_);
  engine_.loop().Close(row.handle());
  row.Close();
  Sing(engine_);
  EXPECT_EQ(row.sink().All<RowClosed>().size(), 1u);
  EXPECT_EQ(engine_.loop().free_rows(), 2);
}

TEST_F(EngineLoopCloseTest, NoKeysOfASessionStayInTheBaseRowThatOthersGoOnUsing) {
  TestRow first(&engine_), second(&engine_);
  first.Prefill(RandomTokens(50, 1), true, /*score_base=*/true);
  second.Prefill(RandomTokens(10, 2), true, /*score_base=*/true);
  first.Close();
  const int64_t base = engine_.kv().base_row();
  EXPECT_TRUE(engine_.kv().Keys(base, 0).slice(1, 0, 9).any().item<bool>());
  for (int64_t layer = 0; layer < 3; ++layer) {
    EXPECT_FALSE(engine_.kv().Keys(base, layer).slice(1, 9).any().item<bool>());
    EXPECT_FALSE(engine_.kv().Values(base, layer).slice(1, 9).any().item<bool>());
  }
  second.Close();
  EXPECT_TRUE(engine_.IsZero());
}

// All bytes of all pools.
std::vector<std::string_view> Pools(const TinyEngine& engine) {
  std::vector<std::string_view> pools;
  const auto add = [&](const at::Tensor& tensor) {
    EXPECT_TRUE(tensor.is_contiguous());
    pools.emplace_back(static_cast<const char*>(tensor.data_ptr()), tensor.nbytes());
  };
  for (int64_t row = 0; row <= engine.kv().base_row(); ++row) {
    add(engine.kv().AllKeys(row));
    add(engine.kv().AllValues(row));
    if (row == engine.kv().base_row()) continue;
    const AdapterState state = engine.adapters().State(row);
    for (const at::Tensor* tensor : {&state.serving, &state.shadow, &state.master, &state.moment1,
                                     &state.moment2, &state.checkpoint}) {
      add(*tensor);
    }
  }
  return pools;
}

// Numbers of the row that stand together.
std::vector<std::string> Traces(const RowState& state) {
  constexpr size_t kBytes = 16, kEvery = 256;
  std::vector<std::string> traces;
  for (const TensorBytes& tensor : state.tensors) {
    for (size_t at = 0; at + kBytes <= tensor.bytes.size(); at += kEvery) {
      std::string trace = tensor.bytes.substr(at, kBytes);
      if (trace != std::string(kBytes, '\0')) traces.push_back(std::move(trace));
    }
  }
  return traces;
}

size_t Found(const std::vector<std::string>& traces, const TinyEngine& engine) {
  const std::vector<std::string_view> pools = Pools(engine);
  return static_cast<size_t>(std::count_if(traces.begin(), traces.end(), [&](const auto& trace) {
    return std::any_of(pools.begin(), pools.end(), [&](std::string_view pool) {
      return pool.find(trace) != std::string_view::npos;
    });
  }));
}

TEST_F(EngineLoopCloseTest, NothingOfASessionIsFoundInAnyPoolWhileOthersLive) {
  // Without common tokens, whose first layer would be common too.
  const auto half = [](bool upper) {
    std::vector<TokenId> tokens = RandomTokens(32, 1);
    for (TokenId& token : tokens) token = token / 2 + (upper ? kTinyVocabulary / 2 : 0);
    return tokens;
  };
  TestRow neighbour(&engine_, Spec(4, 1));
  neighbour.Prefill(half(false));
  neighbour.Update(neighbour.Lesson(16, 16));
  TestRow row(&engine_, Spec(4, 42));
  row.Prefill(half(true), true, /*score_base=*/true);
  row.Update(row.Lesson(16, 16));
  const std::vector<std::string> traces = Traces(*row.Export());
  const std::vector<std::string> others = Traces(*neighbour.Export());
  EXPECT_GT(traces.size(), 100u);
  EXPECT_EQ(Found(traces, engine_), traces.size());
  row.Close();
  EXPECT_EQ(Found(traces, engine_), 0u);
  EXPECT_EQ(Found(others, engine_), others.size());
}

TEST_F(EngineLoopCloseTest, AComparisonThatItsSessionLeftIsNotWaitedFor) {
  TestRow first(&engine_), second(&engine_);
  const auto gate = HoldForwardOf(engine_, engine_.kv().base_row());
  first.Submit(PrefillWork{RandomTokens(60, 1), true, /*score_base=*/true});
  ASSERT_TRUE(gate->WaitForArrival());
  const WorkId id = second.Submit(PrefillWork{RandomTokens(20, 2), true, /*score_base=*/true});
  engine_.loop().Close(first.handle());
  gate->Open();
  const Scored scored = second.sink().Wait<Scored>(id);
  EXPECT_TRUE(SameBits(scored.logprobs, scored.base_logprobs));
}

TEST_F(EngineLoopCloseTest, ManySessionsOneAfterTheOtherAreOneLikeTheOther) {
  const Canary expected = Sing(engine_);
  for (int session = 0; session < 5; ++session) ExpectSame(Sing(engine_), expected);
  EXPECT_TRUE(engine_.IsZero());
}

}  // namespace
}  // namespace mayfly
