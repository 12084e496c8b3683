// What waits for what. Latches make the orders; nothing sleeps.

#include "engine/device/stream.h"

#include <latch>
#include <memory>
#include <numeric>
#include <semaphore>
#include <stdexcept>
#include <thread>
#include <vector>

#include <ATen/Parallel.h>

#include "engine/device/torch_guard.h"
#include "gtest/gtest.h"
#include "tests/support/test_device.h"

namespace mayfly {
namespace {

class StreamTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!MissingTestDevice().empty()) GTEST_SKIP() << MissingTestDevice();
  }
  static at::Device device() { return TestDevice(); }
  // A stream that runs nothing before `gate` opens.
  static void HoldUntil(Stream& stream, std::latch& gate) {
    stream.Run([&gate] { gate.wait(); });
  }
};

TEST_F(StreamTest, WorkRunsInTheOrderInWhichItWasGiven) {
  std::vector<int> seen, expected(1000);
  std::iota(expected.begin(), expected.end(), 0);
  Stream stream(device(), {});
  for (int i = 0; i < 1000; ++i) stream.Run([&seen, i] { seen.push_back(i); });
  stream.Record().Wait();
  EXPECT_EQ(seen, expected);
}

TEST_F(StreamTest, RunReturnsWhileTheStreamIsBusy) {
  std::latch gate(1);
  Stream stream(device(), {});
  HoldUntil(stream, gate);
  for (int i = 0; i < 100; ++i) stream.Run([] {});
  gate.count_down();
}

TEST_F(StreamTest, AnEventIsDoneWhenTheWorkBeforeItIs) {
  std::latch gate(1);
  Stream stream(device(), {});
  const Event at_once = stream.Record();
  at_once.Wait();
  EXPECT_TRUE(at_once.done());
  HoldUntil(stream, gate);
  const Event event = stream.Record();
  EXPECT_FALSE(event.done());
  gate.count_down();
  event.Wait();
  EXPECT_TRUE(event.done());
}

TEST_F(StreamTest, AnEventDoesNotWaitForTheWorkAfterIt) {
  std::latch gate(1);
  Stream stream(device(), {});
  const Event event = stream.Record();
  HoldUntil(stream, gate);
  event.Wait();
  gate.count_down();
}

TEST_F(StreamTest, AnEventThatNobodyRecordedIsDone) {
  const Event event;
  EXPECT_TRUE(event.done());
  event.Wait();
  event.MakeCurrentStreamWait();
}

TEST_F(StreamTest, CopiesAreTheSameEvent) {
  std::latch gate(1);
  Event copy;
  {
    Stream stream(device(), {});
    HoldUntil(stream, gate);
    const Event event = stream.Record();
    copy = event;
    EXPECT_FALSE(copy.done());
    gate.count_down();
    event.Wait();
  }
  EXPECT_TRUE(copy.done());
}

TEST_F(StreamTest, ManyThreadsMayWaitForOneEvent) {
  std::latch gate(1);
  int value = 0;
  Stream stream(device(), {});
  HoldUntil(stream, gate);
  stream.Run([&value] { value = 7; });
  const Event event = stream.Record();
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      event.Wait();
      EXPECT_EQ(value, 7);
      EXPECT_TRUE(event.done());
    });
  }
  gate.count_down();
  for (std::thread& thread : threads) thread.join();
}

TEST_F(StreamTest, WorkOfOneStreamWaitsForAnother) {
  std::latch gate(1);
  std::vector<int> seen;
  Stream writer(device(), {}), reader(device(), {});
  HoldUntil(writer, gate);
  writer.Run([&] { seen.push_back(1); });
  const Event written = writer.Record();
  reader.Run([written] { written.MakeCurrentStreamWait(); });
  reader.Run([&] { seen.push_back(2); });
  const Event read = reader.Record();
  EXPECT_FALSE(read.done());
  gate.count_down();
  read.Wait();
  EXPECT_EQ(seen, (std::vector<int>{1, 2}));
}

// The two directions of an adapter with two copies: an update writes the copy that no step reads,
// and steps read the copy that no update writes.
TEST_F(StreamTest, AnAdapterIsNeitherReadTornNorOverwrittenWhileItIsRead) {
  constexpr int kVersions = 200, kElements = 4096;
  const at::TensorOptions options = at::TensorOptions(device()).dtype(at::kInt);
  at::Tensor copies = at::zeros({2, kElements}, options);
  const at::Tensor torn = at::zeros({1}, options);
  const StreamScope decode(device(), StreamPriority::kDecode);
  Stream update(device(), {});
  std::binary_semaphore launched(0);
  Event left;
  int active = 0;
  for (int version = 1; version <= kVersions; ++version) {
    Event written;
    update.Run([&, left, shadow = 1 - active] {
      left.MakeCurrentStreamWait();
      copies[shadow].fill_(version);
      written = Event::OfCurrentStream(device());
      launched.release();
    });
    // A step under the old version, beside the update.
    torn.add_(copies[active].ne(version - 1).sum());
    left = Event::OfCurrentStream(device());
    launched.acquire();
    written.MakeCurrentStreamWait();
    active = 1 - active;
  }
  EXPECT_EQ(torn.item<int>(), 0);
}

TEST_F(StreamTest, AStreamBeginsAfterItsMakersWork) {
  at::Tensor value = at::zeros({1 << 20}, at::TensorOptions(device()));
  value.fill_(3);
  at::Tensor sum;
  {
    Stream stream(device(), {});
    stream.Run([&] { sum = value.sum(); });
  }
  EXPECT_EQ(sum.item<float>(), 3 * (1 << 20));
}

TEST_F(StreamTest, TheEndOfAStreamFinishesWhatWaits) {
  std::latch gate(1);
  int ran = 0;
  {
    Stream stream(device(), {});
    HoldUntil(stream, gate);
    for (int i = 0; i < 100; ++i) stream.Run([&ran] { ++ran; });
    gate.count_down();
  }
  EXPECT_EQ(ran, 100);
}

TEST_F(StreamTest, WorkIsDestroyedBeforeTheNextBegins) {
  Stream stream(device(), {});
  auto held = std::make_shared<int>(0);
  const std::weak_ptr<int> watched = held;
  bool alive = true;
  stream.Run([held = std::move(held)] {});
  stream.Run([&] { alive = !watched.expired(); });
  stream.Record().Wait();
  EXPECT_FALSE(alive);
}

TEST_F(StreamTest, WorkHasTheStreamsThreads) {
  int threads = 0;
  Stream stream(device(), {.threads = 3});
  stream.Run([&threads] { threads = at::get_num_threads(); });
  stream.Record().Wait();
  EXPECT_EQ(threads, 3);
}

TEST_F(StreamTest, GuardedWorkThatThrowsLeavesTheStreamRunning) {
  absl::Status status;
  bool ran = false;
  Stream stream(device(), {});
  stream.Run([&] { status = RunGuarded("work", [] { throw std::runtime_error("no"); }); });
  stream.Run([&ran] { ran = true; });
  stream.Record().Wait();
  EXPECT_EQ(status, absl::InternalError("work: no"));
  EXPECT_TRUE(ran);
}

TEST_F(StreamTest, AThreadsOwnWorkHasEventsToo) {
  const StreamScope scope(device(), StreamPriority::kDecode);
  const at::Tensor value = at::ones({16}, at::TensorOptions(device()));
  const Event event = Event::OfCurrentStream(device());
  event.MakeCurrentStreamWait();
  event.Wait();
  EXPECT_TRUE(event.done());
  EXPECT_EQ(value.sum().item<float>(), 16);
}

}  // namespace
}  // namespace mayfly
