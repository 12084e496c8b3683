// Thousands of random streams, half of them in parallel mode: whatever a client sends, however
// slowly it reads, how long updates take, whatever the engine defers or fails at, the promises
// below hold. A failing stream is named by its seed.

#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/session/session_fixture.h"

namespace mayfly {
namespace {

constexpr int kStreams = 6000;
constexpr int kCommands = 16;

// One random stream, from its options to its end.
class RandomStream {
 public:
  explicit RandomStream(uint32_t seed)
      : random_(seed), engine_({.rows = 1, .window_tokens = Between(12, 40)}) {
    engine_.SetScript(RandomScript());
    SessionManager::Options options;
    options.limits.outbox_events = Between(1, 12);
    options.limits.max_outstanding_commands = Between(2, 20);
    options.limits.max_append_tokens = 30;
    manager_.emplace(options, &engine_, &clock_, &log_, &metrics_);
    client_.emplace(&*manager_);
  }

  void Run() {
    client_->Send(RandomOpen());
    for (int i = 0; i < kCommands; ++i) {
      SendRandomCommand();
      WorkAWhile();
    }
    EndSomehow();
    Finish();
    if (testing::Test::HasFatalFailure()) return;
    CheckEverythingWasAnsweredOnce();
    CheckTokens();
    CheckChunks();
    CheckNothingIsLeft();
  }

 private:
  int Between(int least, int most) {
    return std::uniform_int_distribution<int>(least, most)(random_);
  }
  bool Chance(int percent) { return Between(1, 100) <= percent; }

  FakeEngine::Script RandomScript() {
    FakeEngine::Script script;
    const float excess = static_cast<float>(Between(-20, 20)) / 100;
    script.logprob = [excess](uint64_t, uint64_t version) {
      return version == 0 ? -2.0f : -2.0f - excess;
    };
    script.base_logprob = [](uint64_t) { return -2.0f; };
    return script;
  }

  OpenCommand RandomOpen() {
    const int window = engine_.info().window_tokens;
    chunk_ = Between(1, window / 2);
    OpenCommand open;
    if (Chance(15)) open.adaptation.preset = Preset::kOff;
    off_ = open.adaptation.preset.has_value();
    parallel_ = !off_ && Chance(50);
    if (parallel_) {
      open.adaptation.mode = UpdateMode::kParallel;
      max_lag_ = Between(0, std::min(3, window / chunk_ - 2));
      engine_.SetUpdateSteps(Between(1, 40));
    }
    defers_ = Chance(30);
    open.adaptation.chunk_tokens = chunk_;
    open.adaptation.max_lag_chunks = max_lag_;
    open.adaptation.context_tokens =
        Between(1, std::max(1, window - (1 + max_lag_) * chunk_ - (off_ ? 1 : 0)));
    open.adaptation.kv_policy = static_cast<KvPolicy>(Between(0, 2));
    open.adaptation.refresh_every = Between(1, 3);
    open.adaptation.learn_from = static_cast<LearnFrom>(Between(0, 2));
    open.adaptation.output_weight = Chance(20) ? 0 : 0.5;
    open.adaptation.receipt = Chance(50);
    open.adaptation.gate = Chance(50);
    return open;
  }

  void SendRandomCommand() {
    if (defers_) engine_.SetDefersLearning(Chance(50));
    const int kind = Between(1, 100);
    if (kind <= 40) {
      answered_.insert(client_->Send(RandomAppend()));
    } else if (kind <= 70) {
      answered_.insert(client_->Generate(Between(0, 40)));
    } else if (kind <= 85) {
      AdaptCommand adapt;
      adapt.action = static_cast<AdaptAction>(Between(0, 4));
      adapted_ |= adapt.action != AdaptAction::kNone;
      answered_.insert(client_->Send(adapt));
    } else if (kind <= 95) {
      client_->Cancel(Chance(20) ? 0 : Between(1, 2 * kCommands));
    } else {
      FailSomething();
    }
  }

  AppendCommand RandomAppend() {
    AppendCommand append;
    append.input = TextInput(std::string(Between(0, 32), 'x'));
    append.score = Chance(30);
    append.learn = Chance(80);
    append.token_logprobs = Chance(30);
    append.compare_base = Chance(30);
    return append;
  }

  void FailSomething() {
    const absl::Status status = absl::ResourceExhaustedError("out of memory");
    switch (Between(0, 6)) {
      case 0: return engine_.FailNext<PrefillWork>(status);
      case 1: return engine_.FailNext<GenerateWork>(status);
      case 2: return engine_.FailNext<RefreshWork>(status);
      case 3: return engine_.FailNext<ScoreBaseWork>(status);
      case 4: return engine_.FailNext<UpdateWork>(status);
      case 5: return engine_.FailNext<RollBackWork>(status);
      case 6: return engine_.FailNext<CheckpointWork>(status);
    }
  }

  void WorkAWhile() {
    for (int i = Between(0, 30); i > 0; --i) {
      if (Chance(10)) manager_->ExpireSessions();
      if (Chance(70)) engine_.Step();
      if (Chance(50)) client_->ReadOne();
    }
  }

  void EndSomehow() {
    const int way = Between(1, 100);
    if (way <= 50) {
      half_closed_ = true;
      return client_->session().HalfClose();
    }
    if (way <= 70) {
      client_->Close();
    } else if (way <= 80) {
      engine_.FailDevice(absl::InternalError("gone"));
    } else {
      client_->session().End(CloseReason::kDeadline, absl::DeadlineExceededError("late"));
    }
  }

  void Finish() {
    int turns = 0;
    for (bool worked = true; worked; ++turns) {
      worked = engine_.Step();
      worked |= client_->ReadOne();
      ASSERT_LT(turns, 100000) << "the stream goes round in circles";
    }
  }

  static bool IsAnswer(const SessionEvent& event) {
    if (const auto* appended = std::get_if<AppendedEvent>(&event.body)) return appended->done;
    return std::holds_alternative<GeneratedEvent>(event.body) ||
           std::holds_alternative<AdaptedEvent>(event.body) ||
           std::holds_alternative<ErrorEvent>(event.body);
  }

  void CheckEverythingWasAnsweredOnce() {
    ASSERT_TRUE(client_->final_status());
    std::map<uint64_t, int> answers;
    for (const SessionEvent& event : client_->events())
      answers[event.request_id] += IsAnswer(event);
    for (const uint64_t id : answered_) EXPECT_EQ(answers[id], 1) << "request " << id;
  }

  void CheckTokens() {
    if (client_->All<ClosedEvent>().empty()) return;  // it ended before its row was ready
    ASSERT_TRUE(std::holds_alternative<ClosedEvent>(client_->events().back().body));
    const Usage usage = client_->All<ClosedEvent>()[0].usage;
    uint64_t in_deltas = 0;
    for (const DeltaEvent& event : client_->All<DeltaEvent>())
      in_deltas += event.delta.tokens.size();
    EXPECT_EQ(usage.generated_tokens, in_deltas);
    // Cut off in the middle, the row may have taken more than the session heard of.
    if (half_closed_) {
      EXPECT_EQ(usage.prompt_tokens + usage.generated_tokens, engine_.tokens_taken());
    }
    EXPECT_LE(usage.prompt_tokens + usage.generated_tokens, engine_.tokens_taken());
  }

  // FakeEngine checks each update against its row; here the updates among themselves.
  void CheckChunks() {
    uint64_t learned_to = 0;
    for (const UpdateWork& update : engine_.SubmittedOf<UpdateWork>()) {
      const uint64_t chunks = defers_ ? RowPlanner::kMaxMergedChunks : 1;
      EXPECT_GE(update.begin, learned_to);
      EXPECT_LE(update.tokens.size(), chunks * chunk_);
      // Where learning waits, whole chunks of a cascaded session may have tokens behind them too.
      EXPECT_TRUE(update.parallel == parallel_ || (defers_ && !parallel_));
      learned_to = update.begin + update.tokens.size();
      if (!adapted_) {
        EXPECT_EQ(update.begin % chunk_, 0u);
        EXPECT_EQ(update.tokens.size() % chunk_, 0u);
      }
    }
    EXPECT_LE(engine_.most_side_work(), 1);
    if (!defers_) {
      EXPECT_LE(engine_.most_tokens_beside(), static_cast<uint64_t>((max_lag_ + 1) * chunk_));
    }
    CheckReceipts();
  }

  void CheckReceipts() {
    uint64_t chunks = 0;
    for (const UpdateEvent& receipt : client_->All<UpdateEvent>()) {
      EXPECT_EQ(receipt.chunk_index, chunks);
      EXPECT_GE(receipt.lag_chunks, receipt.merged_chunks);
      EXPECT_LE(receipt.merged_chunks, defers_ ? RowPlanner::kMaxMergedChunks : 1);
      chunks += receipt.merged_chunks;
    }
    if (!defers_) {
      EXPECT_EQ(metrics_.chunks_deferred.value(), 0u);
    }
    if (!adapted_ && half_closed_) {
      const uint64_t complete = off_ ? 0 : engine_.tokens_taken() / chunk_;
      EXPECT_LE(chunks, complete);
      // A parallel session that ends leaves what lags behind unlearned, one that defers what waits.
      const uint64_t may_lag = (parallel_ ? max_lag_ + 1 : 0) + (defers_ ? 1 + 4 + 1 : 0);
      EXPECT_GE(chunks + may_lag, complete);
    }
  }

  void CheckNothingIsLeft() {
    EXPECT_EQ(manager_->open_sessions(), 0);
    if (engine_.healthy()) {
      EXPECT_EQ(engine_.free_rows(), 1);
    }
    EXPECT_EQ(metrics_.active.value(), 0);
    EXPECT_EQ(metrics_.requests_running.value(), 0);
    EXPECT_EQ(metrics_.requests_waiting.value(), 0);
    EXPECT_EQ(metrics_.lag_chunks.value(), 0);
    EXPECT_EQ(metrics_.learning.value(), 0);
  }

  std::mt19937 random_;
  FakeClock clock_;
  FakeEngine engine_;
  Logger log_{LogLevel::kError, LogFormat::kText};
  SessionMetrics metrics_;
  std::optional<SessionManager> manager_;
  std::optional<SessionClient> client_;

  int chunk_ = 0;
  bool off_ = false;
  bool parallel_ = false;
  int max_lag_ = 0;
  // The engine now and then wants no learning.
  bool defers_ = false;
  bool adapted_ = false;
  bool half_closed_ = false;
  // Commands that need an answer.
  std::set<uint64_t> answered_;
};

TEST(SessionRandomTest, EveryStreamKeepsItsPromises) {
  for (uint32_t seed = 0; seed < kStreams; ++seed) {
    SCOPED_TRACE(seed);
    RandomStream(seed).Run();
    if (testing::Test::HasFailure()) return;
  }
}

}  // namespace
}  // namespace mayfly
