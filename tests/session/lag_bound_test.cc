// In parallel mode no token is drawn by an adapter that is more than max_lag_chunks behind the
// stream, however long its updates take; on the real engine, with updates that take randomly long.

#include <algorithm>
#include <cstdint>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "session/session_manager.h"
#include "tests/engine/tiny_engine.h"
#include "tests/engine/training_delays.h"
#include "tests/support/eventually.h"
#include "tests/support/session_client.h"

namespace mayfly {
namespace {

constexpr int kChunk = 8;
constexpr int kPrompt = 5;
constexpr int kTokens = 200;

// Bound and seed.
class LagBoundTest : public testing::TestWithParam<std::tuple<int, uint64_t>> {
 protected:
  LagBoundTest()
      : delays_(std::get<1>(GetParam()), /*longest=*/2 * kChunk),
        engine_({.rows = 1, .window_tokens = 256}),
        manager_({}, &engine_.loop(), &clock_, &log_, &metrics_) {
    engine_.hooks().forward = [this](const auto&) { delays_.OnForward(); };
    engine_.hooks().train_forward = [this](const auto&) { delays_.Hold(); };
    engine_.hooks().train_backward = [this](const auto&) { delays_.Hold(); };
  }

  static int bound() { return std::get<0>(GetParam()); }

  static OpenCommand Parallel() {
    OpenCommand open;
    open.seed = std::get<1>(GetParam());
    open.adaptation.rank = 4;
    open.adaptation.chunk_tokens = kChunk;
    open.adaptation.context_tokens = 4;
    open.adaptation.mode = UpdateMode::kParallel;
    open.adaptation.max_lag_chunks = bound();
    open.adaptation.kv_policy = KvPolicy::kKeep;
    open.adaptation.gate = false;
    return open;
  }

  // The versions of the drawn tokens, so far.
  static std::vector<uint64_t> Versions(const SessionClient& client) {
    std::vector<uint64_t> versions;
    for (const DeltaEvent& event : client.All<DeltaEvent>()) {
      for (const GeneratedToken& token : event.delta.tokens) {
        versions.push_back(token.adapter_version);
      }
    }
    return versions;
  }

  // Reads until `done`. Where the stream has reached its bound it waits for training, which then
  // must not wait for the stream.
  template <typename Done>
  void ReadUntil(SessionClient& client, Done&& done) {
    EXPECT_TRUE(Eventually([&] {
      client.ReadAll();
      const size_t position = kPrompt + Versions(client).size();
      const size_t learned = client.All<UpdateEvent>().size();
      delays_.Hurry(position >= (learned + static_cast<size_t>(bound()) + 1) * kChunk);
      return done();
    }));
  }

  TrainingDelays delays_;
  const Logger log_{LogLevel::kError, LogFormat::kText};
  FakeClock clock_;
  SessionMetrics metrics_;
  TinyEngine engine_;
  SessionManager manager_;
};

TEST_P(LagBoundTest, NoTokenIsDrawnByAnAdapterFurtherBehind) {
  SessionClient client(&manager_);
  client.Send(Parallel());
  client.Append("Hello");
  GenerateCommand generate;
  generate.max_tokens = kTokens;
  generate.ignore_eos = true;
  client.Send(generate);
  ReadUntil(client, [&] { return !client.All<GeneratedEvent>().empty(); });

  const std::vector<uint64_t> versions = Versions(client);
  ASSERT_EQ(versions.size(), static_cast<size_t>(kTokens));
  EXPECT_TRUE(std::is_sorted(versions.begin(), versions.end()));
  int64_t furthest = 0;
  for (size_t i = 0; i < versions.size(); ++i) {
    const int64_t complete = static_cast<int64_t>(kPrompt + i) / kChunk;
    furthest = std::max(furthest, complete - static_cast<int64_t>(versions[i]));
  }
  EXPECT_EQ(furthest, bound());

  uint64_t version = 0;
  for (const UpdateEvent& update : client.All<UpdateEvent>()) {
    EXPECT_EQ(update.result.outcome, UpdateOutcome::kApplied) << update.result.reason;
    EXPECT_EQ(update.chunk_index, version);
    EXPECT_EQ(update.result.adapter_version, ++version);
    EXPECT_EQ(update.merged_chunks, 1);
    EXPECT_LE(update.lag_chunks, bound() + 1);
  }
  EXPECT_GE(version, static_cast<uint64_t>((kPrompt + kTokens) / kChunk - bound() - 1));

  delays_.Hurry(true);
  client.Close();
  EXPECT_TRUE(Eventually([&] {
    client.ReadAll();
    return client.final_status().has_value() && manager_.open_sessions() == 0;
  }));
  engine_.hooks() = {};
  EXPECT_TRUE(engine_.IsZero());
}

INSTANTIATE_TEST_SUITE_P(BoundsAndSeeds, LagBoundTest,
                         testing::Combine(testing::Values(0, 1, 3),
                                          testing::Range<uint64_t>(1, 4)));

}  // namespace
}  // namespace mayfly
