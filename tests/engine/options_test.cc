#include "engine/options.h"

#include <functional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

EngineOptions Good() {
  EngineOptions options;
  options.model_dir = "model";
  return options;
}

TEST(EngineOptionsTest, TheDefaultsWithAModelAreValid) { EXPECT_THAT(Good().Validate(), IsOk()); }

TEST(EngineOptionsTest, TheSmallestValuesAreValid) {
  EngineOptions options = Good();
  options.threads = 0;
  options.slots = 1;
  options.window_tokens = 2;
  options.max_rank = 1;
  options.step_tokens = 1;
  EXPECT_THAT(options.Validate(), IsOk());
}

struct BadOption {
  const char* name;
  std::function<void(EngineOptions&)> set;
  std::string value;
  std::string limit;
};

class BadOptionTest : public testing::TestWithParam<BadOption> {};

TEST_P(BadOptionTest, IsNamedWithItsValueAndItsLimit) {
  EngineOptions options = Good();
  GetParam().set(options);
  EXPECT_THAT(options.Validate(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr(GetParam().name), HasSubstr(GetParam().value),
                             HasSubstr(GetParam().limit))));
}

INSTANTIATE_TEST_SUITE_P(
    Options, BadOptionTest,
    testing::Values(
        BadOption{"model", [](auto& o) { o.model_dir = ""; }, "empty", "directory"},
        BadOption{"device", [](auto& o) { o.device = "gpu"; }, "'gpu'", "cuda:N"},
        BadOption{"device", [](auto& o) { o.device = "cuda:"; }, "'cuda:'", "cuda:N"},
        BadOption{"device", [](auto& o) { o.device = "cuda:1x"; }, "'cuda:1x'", "cuda:N"},
        BadOption{"device", [](auto& o) { o.device = "cuda:-1"; }, "'cuda:-1'", "cuda:N"},
        BadOption{"device", [](auto& o) { o.device = ""; }, "''", "cpu"},
        BadOption{"threads", [](auto& o) { o.threads = -1; }, "-1", "at least 0"},
        BadOption{"slots", [](auto& o) { o.slots = -1; }, "-1", "at least 0"},
        BadOption{"slots", [](auto& o) { o.slots = 0; }, "0", "memory_budget"},
        BadOption{"window_tokens", [](auto& o) { o.window_tokens = 1; }, "1", "at least 2"},
        BadOption{"max_rank", [](auto& o) { o.max_rank = 0; }, "0", "at least 1"},
        BadOption{"step_tokens", [](auto& o) { o.step_tokens = 0; }, "0", "at least 1"}));

TEST(EngineOptionsTest, DevicesAreTheProcessorAndNumberedCards) {
  for (const char* device : {"cpu", "cuda", "cuda:0", "cuda:12"}) {
    EngineOptions options = Good();
    options.device = device;
    EXPECT_THAT(options.Validate(), IsOk()) << device;
  }
}

TEST(AdapterSpecTest, TheScaleIsAlphaOverTheRankAndNothingWithoutOne) {
  AdapterSpec spec;
  spec.rank = 8;
  spec.alpha = 16;
  EXPECT_DOUBLE_EQ(spec.scale(), 2);
  spec.rank = 0;
  EXPECT_FALSE(spec.enabled());
  EXPECT_DOUBLE_EQ(spec.scale(), 0);
}

}  // namespace
}  // namespace mayfly
