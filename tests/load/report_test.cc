// The three forms of a report, made from figures that are made up here.

#include "tests/load/report_html.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/load/live_view.h"
#include "tests/load/report_json.h"
#include "tests/load/report_text.h"
#include "tests/load/svg_chart.h"

namespace mayfly::load {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TimePoint At(double seconds) {
  return TimePoint(std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds)));
}

// Ten seconds measured from 5 on: three good turns, one bad, a snapshot of the server each second.
RunRecord MakeRun() {
  RunRecord run;
  run.scenario.arrivals.sessions_per_second = 2;
  run.scenario.slo.attainment = 0.75;
  run.scenario.scripts.emplace_back().name = "a<b";
  run.window = {At(0), At(5), At(15)};
  Recorder recorder(run.window, {.ttft_seconds = 1, .inter_token_p99_seconds = 0.1});
  for (const double ttft : {0.1, 0.2, 0.3, 4.0}) {
    Turn turn;
    turn.intended = At(6);
    turn.ended = At(7 + ttft);
    turn.ttft_seconds = ttft;
    turn.gaps = {0.01, 0.02};
    turn.tokens = 5;
    recorder.TurnEnded(turn);
    recorder.TokensCame(At(7), 5);
  }
  v1::Update update;
  update.set_outcome(v1::UPDATE_OUTCOME_APPLIED);
  update.set_tokens(10);
  update.set_label_tokens(10);
  update.set_nll(2);
  update.set_base_nll(2.5);
  recorder.Updated(At(8), update);
  recorder.SessionEnded("finished");
  run.measurements = recorder.Result(At(20));
  for (int second = 0; second <= 20; ++second) {
    run.snapshots.push_back({At(second),
                             {{"mayfly_tokens_total{kind=\"generated\"}", 100.0 + second},
                              {"mayfly_adapter_update_duration_seconds_sum", 0.25 * second},
                              {"mayfly_slots{state=\"active\"}", second < 20 ? 3.0 : 0.0}}});
  }
  return run;
}

Json MakeReport() {
  return {{"conditions", {{"server", "127.0.0.1:1"}}}, {"runs", {RunJson(MakeRun())}}};
}

TEST(RunJsonTest, HoldsGoodputLatencyAndLearning) {
  const Json json = RunJson(MakeRun());
  EXPECT_EQ(json["measured_seconds"], 10);
  EXPECT_EQ(json["goodput"]["attainment"], 0.75);
  EXPECT_EQ(json["goodput"]["slo_kept"], true);
  EXPECT_EQ(json["goodput"]["turns_per_second"], 0.3);
  EXPECT_EQ(json["goodput"]["tokens_per_second"], 1.5);
  EXPECT_EQ(json["turns"]["bad"], 1);
  EXPECT_EQ(json["latency_seconds"]["ttft"]["count"], 4);
  EXPECT_EQ(json["latency_seconds"]["ttft"]["max"], 4);
  EXPECT_EQ(json["tokens"]["generated_per_second"], 2);
  EXPECT_EQ(json["learning"]["learned_fraction"], 0.5);
  EXPECT_EQ(json["learning"]["gained_nats"], 5);
  EXPECT_EQ(json["sessions"]["finished"], 1);
}

TEST(RunJsonTest, TheServersPartIsWhatChangedInTheWindow) {
  const Json json = RunJson(MakeRun());
  EXPECT_EQ(json["server"]["generated_per_second"], 1);
  EXPECT_EQ(json["server"]["training_seconds"], 2.5);
  EXPECT_EQ(json["server"]["all_generated_tokens"], 20);
  EXPECT_EQ(json["server"]["slots_active_after"], 0);
  EXPECT_EQ(json["learning"]["gained_nats_per_busy_second"], 2);
}

TEST(RunJsonTest, WithoutAScrapeThereIsNoServersPart) {
  RunRecord run = MakeRun();
  run.snapshots.clear();
  const Json json = RunJson(run);
  EXPECT_TRUE(json["server"].is_null());
  EXPECT_FALSE(json["learning"].contains("gained_nats_per_busy_second"));
  EXPECT_THAT(ReportHtml({{"conditions", Json::object()}, {"runs", {json}}}), HasSubstr("</html>"));
}

TEST(RunJsonTest, TooFewGoodTurnsMissTheSlo) {
  RunRecord run = MakeRun();
  run.scenario.slo.attainment = 0.76;
  EXPECT_FALSE(KeptSlo(run));
}

TEST(RunJsonTest, ARunWithoutTurnsHasNotKeptTheSlo) {
  RunRecord run = MakeRun();
  run.measurements.turns_judged = {};
  EXPECT_FALSE(KeptSlo(run));
}

TEST(ReportTextTest, SaysWhatMattersInAFewLines) {
  const std::string text = ReportText(MakeReport());
  EXPECT_THAT(text, HasSubstr("SLO kept: 75.0 % of turns, 0.3 turns/s and 1.5 tokens/s within it"));
  EXPECT_THAT(text, HasSubstr("max 4000.0 ms  (4)"));
}

TEST(ReportHtmlTest, IsOnePageThatNeedsNothingElse) {
  const std::string page = ReportHtml(MakeReport());
  EXPECT_THAT(page, HasSubstr("<svg"));
  EXPECT_THAT(page, HasSubstr("prefers-color-scheme: dark"));
  for (const char* outside : {"http:", "https:", "<script", "<link", "src=", "url(", "@import"}) {
    EXPECT_THAT(page, Not(HasSubstr(outside)));
  }
}

TEST(ReportHtmlTest, NamesFromTheScenarioAreEscaped) {
  const std::string page = ReportHtml(MakeReport());
  EXPECT_THAT(page, HasSubstr("a&lt;b"));
  EXPECT_THAT(page, Not(HasSubstr("a<b")));
}

TEST(ReportHtmlTest, ASearchHasItsTableAndItsPlot) {
  Json report = MakeReport();
  report["runs"].push_back(RunJson(MakeRun()));
  Capacity capacity;
  capacity.sustained = 2;
  capacity.too_much = 4;
  capacity.trials = {{2, true}, {4, false}};
  report["capacity"] = CapacityJson(capacity);
  const std::string page = ReportHtml(report);
  EXPECT_THAT(page, HasSubstr("<b>2 sessions/s</b>"));
  EXPECT_THAT(page, HasSubstr("<tr><td>4</td><td>missed</td><td>75.0 %</td></tr>"));
}

TEST(SvgChartTest, DrawsEachSeriesWithinItsFrame) {
  const std::string svg =
      SvgChart({"T", "x", "y", {{"one", {{0, 0}, {10, 5}}}, {"two", {{5, 1}}}}, {}});
  EXPECT_THAT(svg, HasSubstr("points=\"56.0,220.0 628.0,34.0 \""));
  EXPECT_THAT(svg, HasSubstr("line1"));
  EXPECT_THAT(svg, HasSubstr(">10</text>"));
}

TEST(SvgChartTest, NothingToDrawDrawsNothing) {
  EXPECT_EQ(SvgChart({"T", "x", "y", {{"none", {}}}, {}}), "");
}

TEST(LiveLineTest, ShowsTheLastWholeSecond) {
  Measurements so_far;
  so_far.by_second.resize(3);
  so_far.by_second[1].tokens = 42;
  const std::string line = LiveLine({2.3, Phase::kSteady, 7, &so_far});
  EXPECT_THAT(line, HasSubstr("steady"));
  EXPECT_THAT(line, HasSubstr("  7 open |   42 tokens/s"));
}

}  // namespace
}  // namespace mayfly::load
