// Replay: with `deterministic`, a cascaded session's tokens, scores and adapter follow from its own
// commands to the last bit, whatever runs beside it.

#include <atomic>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/tiny_engine.h"

namespace mayfly {
namespace {

// All that a session leaves behind.
struct Life {
  Transcript seen;
  std::vector<double> losses;
  at::Tensor adapter;  // serving copy, masters and moments
};

void ExpectSame(const Life& a, const Life& b) {
  ExpectSame(a.seen, b.seen);
  EXPECT_EQ(a.losses, b.losses);
  EXPECT_TRUE(at::equal(a.adapter, b.adapter));
}

using Case = std::tuple<std::string, DType>;

class ReplayTest : public testing::TestWithParam<Case> {
 protected:
  ReplayTest() : engine_(Options(GetParam())) {}

  static TinyEngineOptions Options(const Case& param) {
    TinyEngineOptions options;
    options.model = std::get<0>(param);
    options.dtype = std::get<1>(param);
    options.rows = 4;
    // Beyond kFewRows, where products of different sizes add in different orders.
    options.step_tokens = 48;
    options.deterministic = true;
    return options;
  }

  // Reads, is compared, writes, and learns from both. `begun` runs once its first work is there.
  template <typename Begun>
  Life Live(TestRow& row, Begun&& begun) {
    Life life;
    const WorkId read = row.Submit(PrefillWork{RandomTokens(23, 5), true, true});
    const WorkId write = row.Submit(Sampled(9, 7));
    begun();
    life.seen.Add(row.sink().Wait<Scored>(read));
    life.seen.Add(row.WaitGenerated(write));
    for (uint64_t chunk = 0; chunk < 4; ++chunk) {
      UpdateWork lesson = row.Lesson(16, 8);
      // An update of one epoch may train in a group, one of two is trained alone.
      lesson.epochs = 1 + static_cast<int32_t>(chunk % 2);
      const UpdateDone done = row.Update(lesson);
      EXPECT_EQ(done.outcome, UpdateOutcome::kApplied) << done.reason;
      life.losses.insert(life.losses.end(), done.losses.begin(), done.losses.end());
      row.Refresh(24);
      life.seen.Add(row.Prefill(RandomTokens(11, 20 + chunk), true, /*score_base=*/true));
      life.seen.Add(row.Generate(Sampled(7, 30 + chunk)));
      life.seen.Add(row.Prefill(RandomTokens(3, 40 + chunk), true, /*score_base=*/true));
    }
    const AdapterState state = engine_.adapters().State(row.handle().row);
    life.adapter =
        at::cat({state.serving.to(at::kFloat), state.master, state.moment1, state.moment2});
    row.Close();
    return life;
  }
  Life LiveAlone() {
    TestRow row(&engine_, Spec(4, 1));
    return Live(row, [] {});
  }

  // Gives a row more to do than the session has: it reads, learns, writes and is compared. All its
  // sizes follow from the seed.
  static void KeepBusy(TestRow& row, uint64_t seed) {
    auto pick = [draw = uint64_t{0}, seed](int32_t from, int32_t to) mutable {
      return from + static_cast<int32_t>(UniformAt(seed, draw++) * (to - from + 1));
    };
    row.Submit(PrefillWork{RandomTokens(pick(1, 24), seed)});
    uint64_t length = row.stream().size() + 38;
    row.Submit(Sampled(38, seed));
    for (uint64_t round = 1; round < 40; ++round) {
      // Generations end before tokens are added, so what lies in the window is known.
      row.Submit(PrefillWork{RandomTokens(1, seed + round)});
      row.Submit(RefreshWork{length});
      const int32_t tokens = pick(16, 30), drawn = pick(1, 20);
      row.Submit(PrefillWork{RandomTokens(tokens, seed + round), true, pick(0, 1) == 0});
      length += 1 + static_cast<uint64_t>(tokens);
      UpdateWork lesson = row.Lesson(pick(6, 12), 3);
      lesson.begin = length - lesson.tokens.size();
      lesson.epochs = pick(1, 2);
      row.Submit(std::move(lesson));
      row.Submit(Sampled(drawn, seed + round));
      length += static_cast<uint64_t>(drawn);
    }
  }

  Life LiveAmongOthers(uint64_t seed) {
    TestRow others[] = {TestRow(&engine_, Spec(8, 2)), TestRow(&engine_, Spec(3, 3)),
                        TestRow(&engine_, Spec(0))};
    TestRow row(&engine_, Spec(4, 1));
    std::atomic<int> shared = 0;
    const auto gate = std::make_shared<Gate>();
    engine_.hooks().forward = [gate, &shared, session = row.handle().row](const auto& segments) {
      gate->Pass();
      for (const ForwardSegment& segment : segments) {
        shared += segments.size() > 1 && segment.row == session;
      }
    };
    for (uint64_t i = 0; i < 3; ++i) KeepBusy(others[i], 1000 * seed + 100 * i);
    EXPECT_TRUE(gate->WaitForArrival());
    Life life = Live(row, [&] { gate->Open(); });
    EXPECT_GT(shared, 0);
    for (TestRow& other : others) other.Close();
    engine_.hooks() = {};
    return life;
  }

  TinyEngine engine_;
};

TEST_P(ReplayTest, ASessionIsTheSameAloneAgainAndAmongOthersToTheLastBit) {
  const Life alone = LiveAlone();
  {
    SCOPED_TRACE("alone again");
    ExpectSame(LiveAlone(), alone);
  }
  for (uint64_t seed = 1; seed <= 4; ++seed) {
    SCOPED_TRACE(testing::Message() << "among others, seed " << seed);
    ExpectSame(LiveAmongOthers(seed), alone);
  }
}

INSTANTIATE_TEST_SUITE_P(Models, ReplayTest,
                         testing::Combine(testing::Values("llama_tied", "qwen3"),
                                          testing::Values(DType::kFloat32, DType::kBFloat16)));

}  // namespace
}  // namespace mayfly
