#include "tests/load/scenario.h"

#include <fstream>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace mayfly::load {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// A scenario of one script with these steps.
std::string WithSteps(const std::string& steps) {
  return R"({"text": "book.txt", "arrivals": {"sessions": 1}, "scripts": [{"name": "s", "steps": [)" +
         steps + "]}]}";
}

std::string ErrorOf(const std::string& json) {
  const auto scenario = ParseScenario(json);
  EXPECT_THAT(scenario, HasCode(absl::StatusCode::kInvalidArgument));
  return std::string(scenario.status().message());
}

TEST(ScenarioTest, ReadsEverythingThatItsHeaderShows) {
  const auto scenario = ParseScenario(R"({
    "seed": 7, "text": "book.txt",   // a comment
    "arrivals": {"sessions_per_second": 0.5},
    "phases": {"ramp_seconds": 2, "warmup_seconds": 3, "steady_seconds": 20, "drain_seconds": 9},
    "bounds": {"max_sessions": 1000, "max_open": 64},
    "slo": {"ttft_ms": 1500, "inter_token_p99_ms": 200, "attainment": 0.9},
    "scripts": [
      {"name": "reader", "weight": 3, "open": {"adaptation": {"preset": "PRESET_PAPER", "rank": 8}},
       "steps": [
         {"repeat": 4, "steps": [
           {"append": {"text_bytes": [200, 300], "score": true}},
           {"generate": {"max_tokens": 32, "sampling": {"temperature": 0.5}}},
           {"think": [0.5, 2]}]},
         {"teach": {"tokens": 100}},
         {"generate": {"max_tokens": 64, "cancel_after_tokens": 8}}]},
      {"name": "gone", "deadline_seconds": 5, "end": "half_close", "steps": [
         {"generate": {"max_tokens": 64, "vanish_after_tokens": 8, "read_pause_ms": 50,
                       "ignore_eos": false}},
         {"vanish": true}]}]})");
  ASSERT_THAT(scenario, IsOk());
  EXPECT_EQ(scenario->seed, 7u);
  EXPECT_TRUE(scenario->arrivals.open_loop());
  EXPECT_EQ(scenario->phases.measured_from(), 5);
  EXPECT_EQ(scenario->phases.measured_to(), 25);
  EXPECT_EQ(scenario->max_open, 64u);
  EXPECT_DOUBLE_EQ(scenario->slo.ttft_seconds, 1.5);
  EXPECT_DOUBLE_EQ(scenario->slo.inter_token_p99_seconds, 0.2);
  ASSERT_EQ(scenario->scripts.size(), 2u);

  const Script& reader = scenario->scripts[0];
  EXPECT_EQ(reader.weight, 3);
  EXPECT_EQ(reader.open.adaptation().preset(), v1::PRESET_PAPER);
  EXPECT_EQ(reader.open.adaptation().rank(), 8u);
  ASSERT_EQ(reader.steps.size(), 4u * 3 + 2);
  const auto& append = std::get<AppendStep>(reader.steps[9]);
  EXPECT_EQ(append.text_bytes->low, 200);
  EXPECT_EQ(append.text_bytes->high, 300);
  EXPECT_TRUE(append.message.score());
  EXPECT_FALSE(append.learn_now);
  const auto& generate = std::get<GenerateStep>(reader.steps[1]);
  EXPECT_EQ(generate.max_tokens.high, 32);
  EXPECT_EQ(generate.message.sampling().temperature(), 0.5);
  EXPECT_TRUE(generate.message.ignore_eos());
  EXPECT_EQ(std::get<ThinkStep>(reader.steps[2]).seconds.high, 2);
  EXPECT_TRUE(std::get<AppendStep>(reader.steps[12]).learn_now);
  EXPECT_EQ(std::get<GenerateStep>(reader.steps[13]).cancel_after_tokens->low, 8);

  const Script& gone = scenario->scripts[1];
  EXPECT_EQ(gone.deadline_seconds, 5);
  EXPECT_TRUE(gone.half_close);
  const auto& slow = std::get<GenerateStep>(gone.steps[0]);
  EXPECT_EQ(slow.vanish_after_tokens->low, 8);
  EXPECT_DOUBLE_EQ(slow.read_pause_seconds, 0.05);
  EXPECT_FALSE(slow.message.ignore_eos());
  EXPECT_TRUE(std::holds_alternative<VanishStep>(gone.steps[1]));
}

TEST(ScenarioTest, ErrorsNameThePlaceTheValueAndWhatIsTaken) {
  EXPECT_EQ(ErrorOf(WithSteps(R"({"generate": {"max_tokens": 0}})")),
            "scripts[0].steps[0].generate.max_tokens takes a number from 1 to 1000000, not 0");
  EXPECT_EQ(ErrorOf(WithSteps(R"({"generate": {"max_tokens": [9, 3]}})")),
            "scripts[0].steps[0].generate.max_tokens[1] takes a number from 9 to 1000000, not 3");
  EXPECT_EQ(ErrorOf(WithSteps(R"({"generate": {}})")),
            "scripts[0].steps[0].generate needs max_tokens");
  EXPECT_EQ(ErrorOf(WithSteps(R"({"append": {"tokens": 3, "text_bytes": 4}})")),
            "scripts[0].steps[0].append takes text_bytes or tokens");
  EXPECT_EQ(ErrorOf(WithSteps(R"({"repeat": 2, "steps": [{"wait": 1}]})")),
            "scripts[0].steps[0].steps[0] takes append, generate, teach, think, vanish or repeat");
  EXPECT_EQ(ErrorOf(WithSteps(R"({"think": 1, "generate": {"max_tokens": 1}})")),
            "scripts[0].steps[0].think is unknown");
  EXPECT_THAT(ErrorOf(WithSteps(R"({"append": {"tokens": 3, "scores": true}})")),
              testing::AllOf(StartsWith("scripts[0].steps[0].append: "), HasSubstr("scores")));
  EXPECT_THAT(ErrorOf("{\n\"seed\": }"), HasSubstr("line 2"));
  EXPECT_EQ(ErrorOf("[]"), "a scenario takes an object, not []");
  EXPECT_EQ(ErrorOf(R"({"scripts": []})"), "arrivals is missing");
  EXPECT_EQ(ErrorOf(R"({"arrivals": {"sessions": 0}})"),
            "arrivals.sessions takes a whole number from 1 to 10000, not 0");
  EXPECT_EQ(ErrorOf(R"({"arrivals": {"sessions": 1, "sessions_per_second": 1}})"),
            "arrivals takes sessions_per_second (open loop) or sessions (closed loop)");
  EXPECT_EQ(ErrorOf(R"({"arrivals": {"sessions": 1}, "scripts": []})"),
            "scripts needs one whose weight is above 0");
  EXPECT_EQ(ErrorOf(R"({"arrivals": {"sessions": 1}, "wieght": 1, "scripts": [
                        {"name": "s", "steps": [{"think": 0}]}]})"),
            "wieght is unknown");
  EXPECT_EQ(ErrorOf(R"({"arrivals": {"sessions": 1}, "scripts": [
                        {"name": "s", "steps": [{"append": {"text_bytes": 1}}]}]})"),
            "text is missing: the file that text_bytes are taken from");
}

TEST(ScenarioTest, WhatWouldNotEndIsRefused) {
  EXPECT_THAT(ErrorOf(R"({"arrivals": {"sessions": 1}, "phases": {"steady_seconds": 1e9}})"),
              HasSubstr("phases.steady_seconds takes a number from 0.001 to 3600"));
  const std::string nested =
      R"({"repeat": 1000, "steps": [{"repeat": 11, "steps": [{"think": 0}]}]})";
  EXPECT_EQ(ErrorOf(WithSteps(nested)), "scripts[0].steps[0] has 11000 steps, the limit is 10000");
}

TEST(ScenarioTest, TheExamplesAreScenarios) {
  for (const char* name : {"mixed.json"}) {
    std::stringstream text;
    text << std::ifstream(std::string("tests/load/scenarios/") + name).rdbuf();
    EXPECT_THAT(ParseScenario(text.str()), IsOk()) << name;
  }
}

}  // namespace
}  // namespace mayfly::load
