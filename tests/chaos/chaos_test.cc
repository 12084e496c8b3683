// Sessions of every kind, ended in every way at any moment, on the real engine behind the real
// server. Afterwards nothing may be left of them: no row, no byte, no descriptor, no thread.
//
// MAYFLY_CHAOS_SESSIONS and MAYFLY_CHAOS_SEED: how many, and which.

#include <malloc.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "gtest/gtest.h"
#include "server/process_stats.h"
#include "tests/chaos/chaos_server.h"
#include "tests/chaos/life.h"
#include "tests/support/eventually.h"
#include "tests/support/observations.h"

namespace mayfly {
namespace {

constexpr int kRows = 8;
// More than there are rows, so that some wait and some are refused.
constexpr int kLivesAtOnce = 16;
constexpr uint64_t kSessions = 300;
// Before anything is measured, a tenth of them but so many at least: fills what is filled once,
// thread pools and caches.
constexpr uint64_t kWarmUp = 200;
// The server's seconds between two looks at its sessions.
constexpr double kTickSeconds = 0.2;

uint64_t FromEnvironment(const char* name, uint64_t otherwise) {
  const char* const text = std::getenv(name);
  uint64_t value = 0;
  return text != nullptr && absl::SimpleAtoi(text, &value) ? value : otherwise;
}

// All but gRPC's, whose pools grow and shrink as they like.
uint64_t OwnThreads() {
  uint64_t count = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::string name;
    std::getline(std::ifstream(task.path() / "comm"), name);
    const bool grpcs = absl::StartsWith(name, "grpc") || absl::StartsWith(name, "default-exec") ||
                       absl::StartsWith(name, "resolver-exec") || name == "event_engine" ||
                       name == "nexting_thread" || name == "timer_manager";
    count += !grpcs;
  }
  return count;
}

// What the process holds.
struct Holdings {
  uint64_t threads = 0;
  uint64_t descriptors = 0;
  uint64_t resident_bytes = 0;

  static Holdings Now() {
    malloc_trim(0);
    const ProcessStats stats = ReadProcessStats();
    return {OwnThreads(), stats.open_fds, stats.resident_bytes};
  }
};

class ChaosTest : public ChaosServerTest {
 protected:
  ChaosTest() : ChaosServerTest(kRows) {
    // As the daemon has it: one heap for all threads.
    mallopt(M_ARENA_MAX, 1);
    Config config =
        Configured(dir_ / "store", {"--max_generate_tokens=1000000", "--idle_timeout=30s",
                                    "--slow_reader_timeout=20s", "--admission_wait=60s",
                                    "--max_waiting_sessions=12"});
    config.sessions.limits.outbox_events = 16;
    Start(config);
    world_.address = server_->address();
    world_.channel = SmallWindowChannel();
    world_.legacy = &legacy_;
    world_.pass = [this](double seconds) { WaitFor(seconds); };
    ticker_ = std::thread([this] { TickUntilStopped(); });
  }
  ~ChaosTest() override {
    {
      std::lock_guard lock(tick_mutex_);
      stopped_ = true;
    }
    ticked_.notify_all();
    ticker_.join();
  }

  // Its transport takes little ahead of its reader, so that who does not read is soon found out.
  std::shared_ptr<grpc::Channel> SmallWindowChannel() const {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    arguments.SetInt(GRPC_ARG_HTTP2_STREAM_LOOKAHEAD_BYTES, 4 << 10);
    return grpc::CreateCustomChannel(server_->address(), grpc::InsecureChannelCredentials(),
                                     arguments);
  }

  // The server's time: it passes a hundred times faster than ours, so that timeouts come soon.
  void TickUntilStopped() {
    std::unique_lock lock(tick_mutex_);
    while (!stopped_) {
      clock_.Advance(kTickSeconds);
      passed_seconds_ += kTickSeconds;
      lock.unlock();
      ticked_.notify_all();
      server_->Tick();
      lock.lock();
      ticked_.wait_for(lock, std::chrono::milliseconds(2), [this] { return stopped_; });
    }
  }
  void WaitFor(double seconds) {
    std::unique_lock lock(tick_mutex_);
    const double end = passed_seconds_ + seconds;
    ticked_.wait(lock, [&] { return passed_seconds_ >= end; });
  }

  // Lives the lives of seeds [first, last), some at once, and waits until nothing is left of them.
  void LiveAll(uint64_t seed, uint64_t first, uint64_t last) {
    std::atomic<uint64_t> next = first;
    std::vector<std::thread> threads;
    for (int i = 0; i < kLivesAtOnce; ++i) {
      threads.emplace_back([&] {
        for (uint64_t life = next++; life < last; life = next++) {
          ++ways_[static_cast<size_t>(Live(world_, seed * 1'000'003 + life))];
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    EXPECT_TRUE(Eventually([&] { return server_->idle(); }));
  }

  uint64_t Closed() const {
    uint64_t closed = 0;
    for (const Counter& counter : server_->session_metrics().closed) closed += counter.value();
    return closed;
  }
  uint64_t Handled() const {
    uint64_t handled = 0;
    const auto session = static_cast<size_t>(RpcMethod::kSession);
    for (const Counter& counter : server_->server_metrics().handled[session]) {
      handled += counter.value();
    }
    return handled;
  }

  bool Serving() const {
    grpc::health::v1::HealthCheckResponse response;
    grpc::ClientContext context;
    const auto health = grpc::health::v1::Health::NewStub(world_.channel);
    return health->Check(&context, {}, &response).ok() &&
           response.status() == grpc::health::v1::HealthCheckResponse::SERVING;
  }

  void ExpectNothingLeft() const {
    EXPECT_EQ(engine_->engine().free_rows(), kRows);
    EXPECT_TRUE(engine_->IsZero());
    const SessionMetrics& metrics = server_->session_metrics();
    EXPECT_TRUE(Eventually([&] { return Handled() == Closed(); }));
    EXPECT_EQ(Observations(metrics.duration_seconds), metrics.opened.value());
    EXPECT_EQ(metrics.active.value(), 0);
    EXPECT_EQ(metrics.admission_waiting.value(), 0);
    EXPECT_EQ(metrics.requests_running.value(), 0);
    EXPECT_EQ(metrics.requests_waiting.value(), 0);
    EXPECT_EQ(metrics.lag_chunks.value(), 0);
    EXPECT_EQ(metrics.learning.value(), 0);
    EXPECT_TRUE(Eventually([&] { return metrics.outbox_events.value() == 0; }));
    EXPECT_TRUE(Serving());
  }

  Legacy legacy_;
  World world_;
  std::array<std::atomic<uint64_t>, kWaysOut> ways_ = {};

  std::mutex tick_mutex_;
  std::condition_variable ticked_;
  double passed_seconds_ = 0;
  bool stopped_ = false;
  std::thread ticker_;
};

TEST_F(ChaosTest, NothingIsLeftOfSessionsHoweverTheyEnd) {
  const uint64_t sessions = FromEnvironment("MAYFLY_CHAOS_SESSIONS", kSessions);
  const uint64_t seed = FromEnvironment("MAYFLY_CHAOS_SEED", 1);
  SCOPED_TRACE(absl::StrCat("MAYFLY_CHAOS_SEED=", seed, " MAYFLY_CHAOS_SESSIONS=", sessions));

  const uint64_t warm_up = std::max(kWarmUp, sessions / 10);
  LiveAll(seed, 0, warm_up);
  ExpectNothingLeft();
  const Holdings before = Holdings::Now();
  LiveAll(seed, warm_up, warm_up + sessions);
  ExpectNothingLeft();

  Holdings after;
  EXPECT_TRUE(Eventually([&] {
    after = Holdings::Now();
    return after.threads <= before.threads && after.descriptors <= before.descriptors;
  }));
  EXPECT_LE(after.resident_bytes, before.resident_bytes * 1.02);
  const SessionMetrics& metrics = server_->session_metrics();
  std::printf(
      "%lu streams, %lu opened, %lu of them resumed; threads %lu to %lu, descriptors %lu to %lu, "
      "resident %.1f to %.1f MB\n",
      Closed(), metrics.opened.value(), legacy_.resumed.load(), before.threads, after.threads,
      before.descriptors, after.descriptors, before.resident_bytes / 1e6,
      after.resident_bytes / 1e6);
  for (size_t i = 0; i < metrics.closed.size(); ++i) {
    std::printf("  %s %lu\n", CloseReasonName(static_cast<CloseReason>(i)),
                metrics.closed[i].value());
  }
  // Without these the test would show little.
  EXPECT_GT(legacy_.resumed, 0u);
  for (const CloseReason reason :
       {CloseReason::kClosed, CloseReason::kHalfClosed, CloseReason::kCancelled,
        CloseReason::kDeadline, CloseReason::kTerminated, CloseReason::kIdle, CloseReason::kNoRow,
        CloseReason::kInvalid, CloseReason::kSlowReader}) {
    EXPECT_GT(metrics.closed[static_cast<size_t>(reason)].value(), 0u) << CloseReasonName(reason);
  }
}

}  // namespace
}  // namespace mayfly
