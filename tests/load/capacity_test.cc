#include "tests/load/capacity.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace mayfly::load {
namespace {

// A server that sustains exactly so much.
std::function<absl::StatusOr<bool>(double)> Sustains(double most) {
  return [most](double rate) { return rate <= most; };
}

TEST(FindCapacityTest, EndsWithinItsToleranceBelowTheTruthFromAnyStart) {
  for (const double truth : {0.3, 1.0, 7.7, 42.0, 500.0}) {
    for (const double start : {0.1, 5.0, 300.0}) {
      const auto found = FindCapacity(
          {.start = start, .lowest = 0.01, .highest = 1000, .tolerance = 0.05, .max_trials = 40},
          Sustains(truth));
      ASSERT_THAT(found, IsOk());
      EXPECT_LE(found->sustained, truth);
      EXPECT_GE(found->sustained, truth / 1.05) << truth << " from " << start;
      EXPECT_GT(found->too_much, truth);
    }
  }
}

TEST(FindCapacityTest, StopsAtItsBounds) {
  const CapacityOptions options{.start = 4, .lowest = 1, .highest = 10};
  const auto none = FindCapacity(options, Sustains(0.5));
  EXPECT_EQ(none->sustained, 0);
  EXPECT_EQ(none->too_much, 1);
  const auto all = FindCapacity(options, Sustains(100));
  EXPECT_EQ(all->sustained, 10);
  EXPECT_EQ(all->too_much, 0);
  EXPECT_EQ(all->trials.size(), 3u);  // 4, 8, 10
}

TEST(FindCapacityTest, TriesNoMoreOftenThanAllowed) {
  const auto found = FindCapacity({.start = 1, .tolerance = 1e-9, .max_trials = 6}, Sustains(3.14));
  EXPECT_EQ(found->trials.size(), 6u);
  EXPECT_LE(found->sustained, 3.14);
}

TEST(FindCapacityTest, AnErrorEndsTheSearch) {
  int trials = 0;
  const auto found = FindCapacity({}, [&](double) -> absl::StatusOr<bool> {
    if (++trials == 3) return absl::UnavailableError("gone");
    return true;
  });
  EXPECT_THAT(found, StatusIs(absl::StatusCode::kUnavailable, "gone"));
  EXPECT_EQ(trials, 3);
}

}  // namespace
}  // namespace mayfly::load
