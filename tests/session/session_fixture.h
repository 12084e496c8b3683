#pragma once

// Sessions on a fake engine and a fake clock, with a window and chunks small enough to count by
// hand.

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "session/session_manager.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_engine.h"
#include "tests/support/session_client.h"
#include "tests/support/status_matchers.h"

namespace mayfly {

class SessionFixture : public testing::Test {
 protected:
  static constexpr int kChunk = 8;
  static constexpr int kContext = 4;

  explicit SessionFixture(SessionManager::Options options = {}, FakeEngine::Options engine = {})
      : engine_(engine),
        manager_(WithSeeds(std::move(options)), &engine_, &clock_, &log_, &metrics_) {}

  // Every session must be over, and its row free, when a test is.
  void TearDown() override {
    manager_.EndAll();
    engine_.RunUntilIdle();
    EXPECT_EQ(manager_.open_sessions(), 0);
    EXPECT_EQ(engine_.free_rows(), engine_.healthy() ? engine_.info().rows : engine_.free_rows());
    EXPECT_EQ(metrics_.active.value(), 0);
    EXPECT_EQ(metrics_.requests_running.value(), 0);
    EXPECT_EQ(metrics_.requests_waiting.value(), 0);
    EXPECT_EQ(metrics_.lag_chunks.value(), 0);
    EXPECT_EQ(metrics_.learning.value(), 0);
  }

  static OpenCommand SmallChunks() {
    OpenCommand open;
    open.adaptation.chunk_tokens = kChunk;
    open.adaptation.context_tokens = kContext;
    open.adaptation.rank = 4;
    return open;
  }
  static OpenCommand Off() {
    OpenCommand open;
    open.adaptation.preset = Preset::kOff;
    return open;
  }

  // Lets the engine work and the client read until neither has anything left to do.
  void Run(SessionClient& client) {
    bool worked = true;
    while (worked) {
      worked = engine_.Step();
      while (client.ReadOne()) worked = true;
    }
  }
  void Open(SessionClient& client, const OpenCommand& open = SmallChunks()) {
    client.Send(open);
    Run(client);
    ASSERT_EQ(client.All<OpenedEvent>().size(), 1u);
  }

  FakeClock clock_;
  FakeEngine engine_;
  Logger log_{LogLevel::kError, LogFormat::kText};
  SessionMetrics metrics_;

 private:
  SessionManager::Options WithSeeds(SessionManager::Options options) {
    options.random = [this] { return ++seed_; };
    return options;
  }
  uint64_t seed_ = 1000;

 protected:
  SessionManager manager_;
};

}  // namespace mayfly
