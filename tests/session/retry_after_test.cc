#include "session/retry_after.h"

#include "gtest/gtest.h"
#include "session/release_forecast.h"

namespace mayfly {
namespace {

TimePoint At(int seconds) { return TimePoint(std::chrono::seconds(seconds)); }

TEST(RetryAfterTest, AStatusCarriesWhenToTryAgain) {
  const absl::Status plain = absl::ResourceExhaustedError("full");
  EXPECT_EQ(RetryAfterSeconds(plain), std::nullopt);
  const absl::Status refused = WithRetryAfter(plain, 12.25);
  EXPECT_EQ(RetryAfterSeconds(refused), 12.25);
  EXPECT_EQ(refused.code(), plain.code());
  EXPECT_EQ(refused.message(), plain.message());
}

TEST(ReleaseForecastTest, KnowsNothingBeforeTwoRowsCameFree) {
  ReleaseForecast forecast;
  EXPECT_EQ(forecast.SecondsToRow(0), std::nullopt);
  forecast.OnRelease(At(5));
  EXPECT_EQ(forecast.SecondsToRow(0), std::nullopt);
}

TEST(ReleaseForecastTest, ExpectsRowsAsOftenAsTheyCameAndThoseAheadFirst) {
  ReleaseForecast forecast;
  for (int i = 0; i < 5; ++i) forecast.OnRelease(At(4 * i));
  EXPECT_EQ(forecast.SecondsToRow(0), 4);
  EXPECT_EQ(forecast.SecondsToRow(2), 12);
  forecast.OnRelease(At(16 + 14));
  EXPECT_DOUBLE_EQ(*forecast.SecondsToRow(0), 5) << "the newest gap counts for a tenth";
}

TEST(ReleaseForecastTest, SendsNobodyAwayForLongOrForNothing) {
  ReleaseForecast forecast;
  forecast.OnRelease(At(0));
  forecast.OnRelease(At(0));
  EXPECT_EQ(forecast.SecondsToRow(0), ReleaseForecast::kLeastSeconds);
  forecast.OnRelease(At(100'000));
  EXPECT_EQ(forecast.SecondsToRow(50), ReleaseForecast::kMostSeconds);
}

}  // namespace
}  // namespace mayfly
