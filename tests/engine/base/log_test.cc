#include "engine/base/log.h"

#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace mayfly {
namespace {

TEST(LoggerTest, TextLinesNameTimeLevelEventAndFields) {
  const Logger logger(LogLevel::kInfo, LogFormat::kText);
  EXPECT_EQ(logger.Format(LogLevel::kWarning, "slow_reader", {{"peer", "a b"}, {"events", 3}}, 0.5),
            "1970-01-01T00:00:00.500Z warning slow_reader peer=\"a b\" events=3");
}

TEST(LoggerTest, JsonLinesAreJsonWhateverTheTextHolds) {
  const Logger logger(LogLevel::kInfo, LogFormat::kJson);
  const std::string nasty = "quote \" backslash \\ newline \n bell \a";
  const std::string line = logger.Format(LogLevel::kError, nasty, {{nasty, nasty}, {"n", 1.5}}, 0);
  EXPECT_THAT(line, testing::Not(testing::HasSubstr("\n")));
  const auto json = nlohmann::json::parse(line);
  EXPECT_EQ(json["event"], nasty);
  EXPECT_EQ(json[nasty], nasty);
  EXPECT_EQ(json["n"], 1.5);
  EXPECT_EQ(json["level"], "error");
}

TEST(LoggerTest, LinesBelowItsLevelAreNotWritten) {
  const Logger logger(LogLevel::kWarning, LogFormat::kText);
  testing::internal::CaptureStderr();
  logger.Info("hidden");
  logger.Warning("shown");
  const std::string written = testing::internal::GetCapturedStderr();
  EXPECT_THAT(written, testing::EndsWith(" warning shown\n"));
  EXPECT_THAT(written, testing::Not(testing::HasSubstr("hidden")));
}

TEST(CheckDeathTest, ABrokenInvariantEndsTheProcessAndNamesItself) {
  EXPECT_DEATH(MAYFLY_CHECK(1 > 2), "log_test.cc:[0-9]+: broken invariant: 1 > 2");
}

}  // namespace
}  // namespace mayfly
