#include "server/busy_ratio.h"

#include "gtest/gtest.h"

namespace mayfly {
namespace {

TimePoint At(double seconds) {
  return TimePoint(std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds)));
}

TEST(BusyRatioTest, TheFirstSampleKnowsNothing) { EXPECT_EQ(BusyRatio().Sample(At(5), 3), 0); }

TEST(BusyRatioTest, IsTheBusyPartOfTheTimeBetween) {
  BusyRatio ratio;
  ratio.Sample(At(0), 10);
  EXPECT_DOUBLE_EQ(ratio.Sample(At(4), 11), 0.25);
}

TEST(BusyRatioTest, ForgetsWhatIsOlderThanAMinute) {
  BusyRatio ratio;
  ratio.Sample(At(0), 0);
  ratio.Sample(At(50), 50);
  EXPECT_DOUBLE_EQ(ratio.Sample(At(100), 50), 0);
}

}  // namespace
}  // namespace mayfly
