// Replays tests/scenarios/*.txt. With MAYFLY_UPDATE_SCENARIOS set, writes down what happened
// instead.

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/scenario.h"

namespace mayfly {
namespace {

std::vector<std::string> ScenarioFiles() {
  std::vector<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator("tests/scenarios")) {
    if (entry.path().extension() == ".txt") files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::string Read(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

TEST(ScenarioTest, EveryScriptHappensAsWritten) {
  const std::vector<std::string> files = ScenarioFiles();
  ASSERT_FALSE(files.empty());
  for (const std::string& file : files) {
    const std::string script = Read(file);
    const std::string replay = ReplayScenario(script);
    EXPECT_EQ(replay, script) << file;
    if (std::getenv("MAYFLY_UPDATE_SCENARIOS") != nullptr) std::ofstream(file) << replay;
  }
}

TEST(ScenarioTest, AScriptThatPromisesSomethingElseComesBackChanged) {
  EXPECT_EQ(ReplayScenario("> open off\n< opened something else\n"),
            "> open off\n< opened window_tokens=64 rank=0\n");
}

}  // namespace
}  // namespace mayfly
