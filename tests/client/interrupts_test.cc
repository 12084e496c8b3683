#include "client/interrupts.h"

#include <unistd.h>

#include <csignal>
#include <future>

#include "gtest/gtest.h"

namespace mayfly::cli {
namespace {

TEST(InterruptsTest, TheFirstCancelsAndTheSecondEnds) {
  int cancelled = 0;
  int ended = 0;
  Interrupts interrupts([&] { ++ended; });
  {
    Interrupts::Scope scope(interrupts, [&] { ++cancelled; });
    EXPECT_FALSE(scope.interrupted());
    interrupts.Raise();
    EXPECT_TRUE(scope.interrupted());
    EXPECT_EQ(cancelled, 1);
    EXPECT_EQ(ended, 0);
    interrupts.Raise();
    EXPECT_EQ(ended, 1);
  }
  interrupts.Raise();
  EXPECT_EQ(cancelled, 1);
  EXPECT_EQ(ended, 2);
}

// A signal to the process goes to any thread that does not block it, so this test lives in a binary
// whose other tests start no threads.
TEST(InterruptsTest, SigintIsRaisedOnTheWatcher) {
  std::promise<void> raised;
  Interrupts interrupts([] { FAIL() << "nothing was there to cancel"; });
  const Interrupts::Scope scope(interrupts, [&] { raised.set_value(); });
  const SignalWatcher watcher(interrupts);
  kill(getpid(), SIGINT);
  raised.get_future().wait();
}

}  // namespace
}  // namespace mayfly::cli
