#include "server/watchdog.h"

#include <atomic>

#include "gtest/gtest.h"
#include "tests/support/eventually.h"

namespace mayfly {
namespace {

TEST(WatchdogTest, BarksWhenItsTimeIsUp) {
  std::atomic<bool> barked = false;
  const Watchdog watchdog(0, [&] { barked = true; });
  EXPECT_TRUE(Eventually([&] { return barked.load(); }));
}

TEST(WatchdogTest, KeepsQuietWhenItIsLetGoInTime) {
  bool barked = false;
  {
    const Watchdog watchdog(3600, [&] { barked = true; });
  }
  EXPECT_FALSE(barked);
}

}  // namespace
}  // namespace mayfly
