#include "tests/load/arrivals.h"

#include <algorithm>
#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mayfly::load {
namespace {

using ::testing::ElementsAre;

PoissonOptions Options() {
  return {.sessions_per_second = 20,
          .ramp_seconds = 0,
          .end_seconds = 1000,
          .most = 1'000'000,
          .seed = 7};
}

size_t Between(const std::vector<double>& times, double from, double to) {
  return static_cast<size_t>(std::count_if(times.begin(), times.end(),
                                           [&](double time) { return from <= time && time < to; }));
}

TEST(PoissonArrivalsTest, TheSameSeedGivesTheSameTimesAndAnotherSeedOthers) {
  PoissonOptions options = Options();
  const auto times = PoissonArrivals(options);
  EXPECT_EQ(PoissonArrivals(options), times);
  options.seed = 8;
  EXPECT_NE(PoissonArrivals(options), times);
}

TEST(PoissonArrivalsTest, TimesAscendAndAreAsManyAsTheRateSays) {
  const auto times = PoissonArrivals(Options());
  EXPECT_TRUE(std::is_sorted(times.begin(), times.end()));
  EXPECT_NEAR(static_cast<double>(times.size()), 20000, 4 * std::sqrt(20000));
  EXPECT_LT(times.back(), 1000);
}

// In a Poisson process the count in an interval varies by its mean; evenly spaced arrivals would
// not vary, bursts would vary more.
TEST(PoissonArrivalsTest, CountsVaryAsMuchAsTheirMean) {
  const auto times = PoissonArrivals(Options());
  double squares = 0;
  for (int second = 0; second < 1000; ++second) {
    const double off = static_cast<double>(Between(times, second, second + 1)) - 20;
    squares += off * off;
  }
  EXPECT_NEAR(squares / 1000, 20, 4);
}

TEST(PoissonArrivalsTest, TheRateRisesEvenlyInTheRamp) {
  PoissonOptions options = Options();
  options.sessions_per_second = 1000;
  options.ramp_seconds = 10;
  options.end_seconds = 20;
  const auto times = PoissonArrivals(options);
  // The integral of a rate that grows from 0 to 1000.
  EXPECT_NEAR(static_cast<double>(Between(times, 0, 5)), 1250, 150);
  EXPECT_NEAR(static_cast<double>(Between(times, 5, 10)), 3750, 250);
  EXPECT_NEAR(static_cast<double>(Between(times, 10, 20)), 10000, 400);
}

TEST(PoissonArrivalsTest, ThereAreAtMostAsManyAsAllowed) {
  PoissonOptions options = Options();
  options.most = 5;
  EXPECT_EQ(PoissonArrivals(options).size(), 5u);
}

TEST(ClosedLoopTest, ClientsBeginOneByOneDuringTheRamp) {
  EXPECT_THAT(ClosedLoopStarts(4, 2), ElementsAre(0, 0.5, 1, 1.5));
  EXPECT_THAT(ClosedLoopStarts(2, 0), ElementsAre(0, 0));
}

}  // namespace
}  // namespace mayfly::load
