#include "tests/load/event_loop.h"

#include <string>
#include <thread>

#include "gtest/gtest.h"
#include "tests/support/fake_clock.h"

namespace mayfly::load {
namespace {

TEST(EventLoopTest, TimersRunInTheirOrderAndNotBeforeTheirTime) {
  FakeClock clock;
  EventLoop loop(&clock);
  std::string order;
  const TimePoint begin = clock.Now();
  loop.At(begin + std::chrono::seconds(2), [&] { order += 'c'; });
  loop.At(begin + std::chrono::seconds(1), [&] { order += 'a'; });
  loop.At(begin + std::chrono::seconds(1), [&] { order += 'b'; });
  EXPECT_FALSE(loop.RunReady());
  clock.Advance(1);
  EXPECT_TRUE(loop.RunReady());
  EXPECT_EQ(order, "ab");
  clock.Advance(5);
  EXPECT_TRUE(loop.RunReady());
  EXPECT_EQ(order, "abc");
  EXPECT_FALSE(loop.RunReady());
}

TEST(EventLoopTest, ATaskMayPostAnother) {
  FakeClock clock;
  EventLoop loop(&clock);
  int runs = 0;
  loop.Post([&] { loop.Post([&] { ++runs; }); });
  loop.RunReady();
  EXPECT_EQ(runs, 0);
  loop.RunReady();
  EXPECT_EQ(runs, 1);
}

TEST(EventLoopTest, WhatAnotherThreadPostsWakesTheLoop) {
  const SteadyClock clock;
  EventLoop loop(&clock);
  bool posted = false;
  // A timer that is far away: without the wake the loop would wait for it.
  loop.At(clock.Now() + std::chrono::hours(1), [] {});
  std::thread other([&] { loop.Post([&] { posted = true; }); });
  loop.RunUntil([&] { return posted; });
  other.join();
  EXPECT_TRUE(posted);
}

TEST(EventLoopTest, SleepsUntilTheNextTimer) {
  const SteadyClock clock;
  EventLoop loop(&clock);
  const TimePoint due = clock.Now() + std::chrono::milliseconds(2);
  TimePoint ran;
  loop.At(due, [&] { ran = clock.Now(); });
  loop.RunUntil([&] { return ran != TimePoint(); });
  EXPECT_GE(ran, due);
}

}  // namespace
}  // namespace mayfly::load
