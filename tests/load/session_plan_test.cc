#include "tests/load/session_plan.h"

#include <map>

#include "client/document.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace mayfly::load {
namespace {

const Material kMaterial{.text = "The mountains\nare blue, “and” far\naway.\n", .vocabulary = 50};

Scenario Parse(const std::string& scripts) {
  const auto scenario = ParseScenario(
      R"({"seed": 5, "text": "b", "arrivals": {"sessions": 1}, "scripts": [)" + scripts + "]}");
  EXPECT_THAT(scenario, IsOk());
  return *scenario;
}

const char kBusy[] = R"({"name": "busy", "steps": [
    {"append": {"text_bytes": [5, 300], "score": true}},
    {"generate": {"max_tokens": [4, 9], "cancel_after_tokens": [1, 3]}},
    {"think": [0.5, 2]},
    {"teach": {"tokens": [2, 6]}},
    {"vanish": true}]})";

std::string Fingerprint(const SessionPlan& plan) {
  std::string text = plan.script + plan.open.SerializeAsString();
  for (const Action& action : plan.actions) {
    text += std::to_string(action.index());
    if (const auto* send = std::get_if<SendAction>(&action)) text += send->request.DebugString();
    if (const auto* generate = std::get_if<GenerateAction>(&action)) {
      text += generate->generate.DebugString();
    }
    if (const auto* think = std::get_if<ThinkAction>(&action)) {
      text += std::to_string(think->seconds);
    }
  }
  return text;
}

TEST(SessionPlanTest, SeedAndNumberDecideIt) {
  Scenario scenario = Parse(kBusy);
  const std::string plan = Fingerprint(PlanSession(scenario, kMaterial, 3));
  EXPECT_EQ(Fingerprint(PlanSession(scenario, kMaterial, 3)), plan);
  EXPECT_NE(Fingerprint(PlanSession(scenario, kMaterial, 4)), plan);
  scenario.seed = 6;
  EXPECT_NE(Fingerprint(PlanSession(scenario, kMaterial, 3)), plan);
}

TEST(SessionPlanTest, EverythingDrawnIsInItsRange) {
  const Scenario scenario = Parse(kBusy);
  std::map<uint32_t, int> lengths;
  for (uint64_t number = 0; number < 300; ++number) {
    const SessionPlan plan = PlanSession(scenario, kMaterial, number);
    ASSERT_EQ(plan.actions.size(), 6u);  // teaching takes two commands
    const v1::Append& append = std::get<SendAction>(plan.actions[0]).request.append();
    EXPECT_TRUE(append.score());
    EXPECT_THAT(cli::CheckUtf8(append.text(), "text"), IsOk());
    EXPECT_GE(append.text().size(), 5u);
    EXPECT_LE(append.text().size(), 303u);  // the last character is not cut
    const auto& generate = std::get<GenerateAction>(plan.actions[1]);
    ++lengths[generate.generate.max_tokens()];
    EXPECT_GE(*generate.cancel_after_tokens, 1u);
    EXPECT_LE(*generate.cancel_after_tokens, 3u);
    const double seconds = std::get<ThinkAction>(plan.actions[2]).seconds;
    EXPECT_TRUE(0.5 <= seconds && seconds <= 2);
    const v1::TokenIds& ids = std::get<SendAction>(plan.actions[3]).request.append().token_ids();
    EXPECT_TRUE(2 <= ids.ids_size() && ids.ids_size() <= 6);
    for (const uint32_t id : ids.ids()) EXPECT_LT(id, 50u);
    EXPECT_EQ(std::get<SendAction>(plan.actions[4]).request.adapt().action(),
              v1::ADAPT_ACTION_UPDATE_NOW);
    EXPECT_TRUE(std::holds_alternative<VanishAction>(plan.actions[5]));
  }
  // Both ends of the range included, none beyond.
  EXPECT_EQ(lengths.begin()->first, 4u);
  EXPECT_EQ(lengths.rbegin()->first, 9u);
  EXPECT_EQ(lengths.size(), 6u);
}

TEST(SessionPlanTest, ScriptsAreAsFrequentAsTheirWeights) {
  const Scenario scenario = Parse(R"(
      {"name": "never", "weight": 0, "steps": [{"think": 0}]},
      {"name": "often", "weight": 3, "steps": [{"think": 0}]},
      {"name": "rare", "weight": 1, "steps": [{"think": 0}]},
      {"name": "nor", "weight": 0, "steps": [{"think": 0}]})");
  std::map<std::string, int> seen;
  for (uint64_t i = 0; i < 4000; ++i) ++seen[PlanSession(scenario, kMaterial, i).script];
  EXPECT_EQ(seen.size(), 2u);
  EXPECT_NEAR(seen["often"], 3000, 120);
}

TEST(SessionPlanTest, EachSessionHasASeedOfItsOwnUnlessTheScriptSaysOtherwise) {
  const Scenario drawn = Parse(R"({"name": "s", "steps": [{"think": 0}]})");
  EXPECT_NE(PlanSession(drawn, kMaterial, 0).open.seed(),
            PlanSession(drawn, kMaterial, 1).open.seed());
  const Scenario given = Parse(R"({"name": "s", "open": {"seed": 9}, "steps": [{"think": 0}]})");
  EXPECT_EQ(PlanSession(given, kMaterial, 1).open.seed(), 9u);
}

}  // namespace
}  // namespace mayfly::load
