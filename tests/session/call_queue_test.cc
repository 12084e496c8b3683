#include "session/call_queue.h"

#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mayfly {
namespace {

using testing::ElementsAre;

TEST(CallQueueTest, CallsAreMadeInTheOrderInWhichTheyWereAdded) {
  CallQueue calls;
  std::vector<int> made;
  for (int i = 0; i < 3; ++i) calls.Add([&made, i] { made.push_back(i); });
  EXPECT_TRUE(made.empty());
  calls.Run();
  EXPECT_THAT(made, ElementsAre(0, 1, 2));
}

TEST(CallQueueTest, WhatACallAddsComesAfterWhatWaitsAndNestedRunsDoNotOvertake) {
  CallQueue calls;
  std::vector<int> made;
  calls.Add([&] {
    calls.Add([&] { made.push_back(3); });
    calls.Run();
    made.push_back(1);
  });
  calls.Add([&] { made.push_back(2); });
  calls.Run();
  EXPECT_THAT(made, ElementsAre(1, 2, 3));
}

TEST(CallQueueTest, CallsOfSeveralThreadsAreMadeOneAtATime) {
  CallQueue calls;
  int made = 0;  // unguarded on purpose: the queue is the guard
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) {
        calls.Add([&made] { ++made; });
        calls.Run();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  calls.Run();
  EXPECT_EQ(made, 4000);
}

}  // namespace
}  // namespace mayfly
