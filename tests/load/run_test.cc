// Whole runs over gRPC against a server in this process with a fake engine: what is counted is what
// was asked, on both sides, and every row is free afterwards.

#include <atomic>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/load/harness.h"
#include "tests/load/session_plan.h"
#include "tests/support/in_process_server.h"
#include "tests/support/status_matchers.h"

namespace mayfly::load {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

// A clock that says it is later than it is at every look: a client that comes late to everything.
class LateClock final : public Clock {
 public:
  TimePoint Now() const override {
    return steady_.Now() + std::chrono::seconds(looks_++ == 0 ? 0 : 5);
  }

 private:
  const SteadyClock steady_;
  mutable std::atomic<int> looks_ = 0;
};

class RunTest : public ::testing::Test {
 protected:
  ~RunTest() override { EXPECT_TRUE(fixture_.AllRowsFree()); }

  // `rest` is what comes before the scripts; phases that nothing here reaches the end of.
  RunRecord Run(const std::string& rest, const std::string& scripts, const Clock* clock) {
    const auto scenario = ParseScenario(
        R"({"phases": {"steady_seconds": 60, "drain_seconds": 30},
            "slo": {"ttft_ms": 20000, "inter_token_p99_ms": 20000}, )" +
        rest + R"(, "scripts": [)" + scripts + "]}");
    EXPECT_THAT(scenario, IsOk());
    Target target;
    target.channels = {fixture_.Connect(), fixture_.Connect()};
    target.material.vocabulary = 200;
    target.clock = clock;
    return RunScenario(*scenario, target, nullptr);
  }
  RunRecord Run(const std::string& rest, const std::string& scripts) {
    return Run(rest, scripts, &steady_);
  }

  const SteadyClock steady_;
  InProcessServer fixture_;
};

// Two clients, the server's rows, begin six sessions of three turns.
constexpr char kSixSessions[] = R"("arrivals": {"sessions": 2}, "bounds": {"max_sessions": 6})";

TEST_F(RunTest, CountsWhatItAskedForAndWhatTheServerGave) {
  const RunRecord run = Run(kSixSessions, R"({"name": "s", "steps": [
      {"repeat": 3, "steps": [{"append": {"tokens": 8}}, {"generate": {"max_tokens": 5}}]}]})");
  const Measurements& m = run.measurements;
  EXPECT_THAT(m.sessions, ElementsAre(Pair("finished", 6)));
  EXPECT_EQ(m.turns(TurnEnd::kComplete), 18u);
  EXPECT_EQ(m.turns(Verdict::kGood), 18u);
  EXPECT_EQ(m.appended_tokens, 6u * 3 * 8);
  EXPECT_EQ(m.generated_tokens, 6u * 3 * 5);
  EXPECT_EQ(m.ttft.count(), 18u);
  EXPECT_EQ(m.append.count(), 18u);
  EXPECT_EQ(m.open.count(), 6u);
  EXPECT_EQ(fixture_.engine().tokens_taken(), 6u * 3 * (8 + 5));
  // Two chunks of 16 of the 39 tokens of each session.
  EXPECT_EQ(m.learned_tokens, 6u * 2 * 16);
  EXPECT_TRUE(KeptSlo(run));
}

TEST_F(RunTest, LatencyCountsFromTheIntendedTime) {
  const LateClock late;
  const RunRecord run =
      Run(R"("arrivals": {"sessions": 1}, "bounds": {"max_sessions": 1})",
          R"({"name": "s", "steps": [{"append": {"tokens": 4}}, {"generate": {"max_tokens": 2}}]})",
          &late);
  const Measurements& m = run.measurements;
  EXPECT_EQ(m.ttft.count(), 1u);
  // The session should have begun at the run's start and was begun five seconds later.
  EXPECT_GE(m.start_lag.min(), 5);
  EXPECT_GE(m.open.min(), 5);
  EXPECT_GE(m.ttft.min(), 5);
  // What happened after that was not late.
  EXPECT_LT(m.inter_token.max(), 5);
}

TEST_F(RunTest, EndsInEveryWayThatAScriptCan) {
  const std::string one_each = R"("arrivals": {"sessions": 1}, "bounds": {"max_sessions": 1})";
  const auto ends = [&](const std::string& script) {
    return Run(one_each, R"({"name": "s", )" + script + "}").measurements.sessions;
  };
  EXPECT_THAT(ends(R"("end": "half_close", "steps": [{"append": {"tokens": 40}}])"),
              ElementsAre(Pair("finished", 1)));
  EXPECT_THAT(ends(
                  R"("steps": [{"append": {"tokens": 4}},
                                {"generate": {"max_tokens": 9000, "cancel_after_tokens": 3}},
                                {"generate": {"max_tokens": 2}}])"),
              ElementsAre(Pair("finished", 1)));
  EXPECT_THAT(ends(
                  R"("steps": [{"append": {"tokens": 4}},
                                {"generate": {"max_tokens": 90000, "vanish_after_tokens": 3}}])"),
              ElementsAre(Pair("vanished", 1)));
  EXPECT_THAT(ends(R"("steps": [{"append": {"tokens": 3}}, {"vanish": true}])"),
              ElementsAre(Pair("vanished", 1)));
  EXPECT_THAT(ends(
                  R"("deadline_seconds": 0.05, "steps": [{"append": {"tokens": 4}},
                                                        {"generate": {"max_tokens": 900000}}])"),
              ElementsAre(Pair("deadline", 1)));
  EXPECT_THAT(ends(R"("steps": [{"teach": {"tokens": 10}}, {"generate": {"max_tokens": 2}}])"),
              ElementsAre(Pair("finished", 1)));
  EXPECT_THAT(ends(
                  R"("steps": [{"append": {"tokens": 4}},
                                {"generate": {"max_tokens": 6, "read_pause_ms": 1}}])"),
              ElementsAre(Pair("finished", 1)));
  EXPECT_THAT(ends(R"("open": {"adaptation": {"rank": 9999}}, "steps": [{"think": 0}])"),
              ElementsAre(Pair("failed: INVALID_ARGUMENT", 1)));
  EXPECT_TRUE(fixture_.HasClosed(CloseReason::kCancelled, 2));
}

TEST_F(RunTest, WhoFindsNoRowIsRefusedAndCountedAsBad) {
  // The one that is let in keeps its row until the others have been refused; they come at once.
  const RunRecord run = Run(R"("arrivals": {"sessions": 4}, "bounds": {"max_sessions": 4})",
                            R"({"name": "s", "steps": [{"append": {"tokens": 4}}, {"think": 0.2},
                                 {"generate": {"max_tokens": 2}}]})");
  EXPECT_THAT(run.measurements.sessions, ElementsAre(Pair("finished", 2), Pair("refused", 2)));
  EXPECT_EQ(run.measurements.turns(TurnEnd::kFailed), 2u);
  EXPECT_FALSE(KeptSlo(run));
}

TEST_F(RunTest, MoreThanMayBeOpenAreDroppedNotForgotten) {
  const RunRecord run = Run(
      R"("arrivals": {"sessions": 3}, "bounds": {"max_sessions": 3, "max_open": 2})",
      R"({"name": "s", "steps": [{"append": {"tokens": 4}}, {"generate": {"max_tokens": 2}}]})");
  EXPECT_THAT(run.measurements.sessions, ElementsAre(Pair("dropped", 1), Pair("finished", 2)));
  EXPECT_EQ(run.measurements.turns(Verdict::kBad), 1u);
}

TEST_F(RunTest, ARunIsCutWhenItsTimeIsOver) {
  const RunRecord run = Run(
      R"("arrivals": {"sessions": 2}, "phases": {"steady_seconds": 0.01, "drain_seconds": 0.01})",
      R"({"name": "s", "steps": [{"append": {"tokens": 4}},
                                 {"generate": {"max_tokens": 1000000}}]})");
  EXPECT_THAT(run.measurements.sessions, ElementsAre(Pair("cut", 2)));
  EXPECT_EQ(run.measurements.turns(TurnEnd::kCut), 2u);
}

// The turn that is measured takes long, so that sessions come and go after the window.
TEST_F(RunTest, TheLoadGoesOnUntilWhatIsMeasuredHasEnded) {
  const auto rest = [](uint64_t seed) {
    return absl::StrCat(R"("seed": )", seed, R"(, "arrivals": {"sessions": 2},
        "bounds": {"max_sessions": 40}, "phases": {"steady_seconds": 0.001, "drain_seconds": 30})");
  };
  const std::string scripts =
      R"({"name": "long", "weight": 1, "steps": [
           {"append": {"tokens": 4}}, {"generate": {"max_tokens": 200, "read_pause_ms": 1}}]},
         {"name": "short", "weight": 9, "steps": [
           {"append": {"tokens": 4}}, {"generate": {"max_tokens": 1}}]})";
  const auto script = [&](uint64_t seed, uint64_t number) {
    const auto scenario =
        ParseScenario(absl::StrCat("{", rest(seed), R"(, "scripts": [)", scripts, "]}"));
    return PlanSession(*scenario, {.text = "", .vocabulary = 200}, number).script;
  };
  uint64_t seed = 0;
  while (script(seed, 0) != "long" || script(seed, 1) != "short") ++seed;

  const RunRecord run = Run(rest(seed), scripts);
  EXPECT_GT(run.measurements.sessions_started, 2u);
  EXPECT_THAT(run.measurements.sessions, ElementsAre(Pair("finished", testing::_)));
  EXPECT_EQ(run.measurements.turns(TurnEnd::kComplete), run.measurements.open.count());
}

TEST_F(RunTest, TheSameSeedAsksForTheSame) {
  const std::string script = R"({"name": "s", "steps": [
      {"append": {"tokens": [1, 20]}}, {"generate": {"max_tokens": [1, 9]}}]})";
  const RunRecord first = Run(kSixSessions, script);
  const RunRecord second = Run(kSixSessions, script);
  EXPECT_EQ(first.measurements.all_appended_tokens, second.measurements.all_appended_tokens);
  EXPECT_EQ(first.measurements.all_generated_tokens, second.measurements.all_generated_tokens);
}

TEST_F(RunTest, CapacityIsSearchedAtOtherRatesThanTheScenariosOwn) {
  const auto scenario = ParseScenario(
      R"({"arrivals": {"sessions_per_second": 20}, "phases": {"steady_seconds": 0.2},
          "slo": {"ttft_ms": 0}, "bounds": {"max_open": 2},
          "scripts": [{"name": "s", "steps": [{"append": {"tokens": 4}},
                                              {"generate": {"max_tokens": 1}}]}]})");
  ASSERT_THAT(scenario, IsOk());
  Target target;
  target.channels = {fixture_.Connect()};
  target.clock = &steady_;
  std::vector<double> rates;
  // No first token comes in no time: every rate at which a session begins is too much.
  const auto search =
      SearchCapacity(*scenario, target, 2, nullptr, [&](double rate) { rates.push_back(rate); });
  ASSERT_THAT(search, IsOk());
  EXPECT_THAT(rates, ElementsAre(20, 10));
  EXPECT_EQ(search->runs.size(), 2u);
  EXPECT_EQ(search->runs[1].scenario.arrivals.sessions_per_second, 10);
  EXPECT_EQ(search->capacity.sustained, 0);
}

TEST_F(RunTest, AClosedLoopHasNoRateToSearchFrom) {
  Scenario closed;
  closed.arrivals.sessions = 2;
  EXPECT_THAT(SearchCapacity(closed, {}, 2, nullptr, nullptr),
              HasCode(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace mayfly::load
