// The engine as sessions use it: rows opened through engine.h, work submitted, results at a
// TokenSink. The loop's thread, sampling, delivery and detokenizing are part of it; gRPC is not.

#include <memory>
#include <utility>
#include <variant>
#include <vector>

#include "benchmark/benchmark.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mailbox.h"
#include "engine/create_engine.h"
#include "tests/bench/report.h"

namespace mayfly {
namespace {

constexpr char kModel[] = "models/smollm2-135m-instruct";
constexpr int32_t kChunk = 1024;
// As service_bench does it through gRPC (run.py).
constexpr int32_t kSessions = 8, kPrompt = 64, kGenerated = 192;

std::vector<TokenId> Tokens(int32_t count, int32_t first) {
  std::vector<TokenId> tokens(static_cast<size_t>(count));
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<TokenId>((static_cast<size_t>(first) + i) * 7919 % 49152);
  }
  return tokens;
}

// A row of the engine, worked by one thread: submits, and waits for what answers it.
class Row final {
 public:
  Row(Engine* engine, int32_t rank, uint64_t seed)
      : engine_(engine), inbox_(std::make_shared<Inbox>()) {
    RowOptions options;
    options.adapter.rank = rank;
    options.adapter.alpha = rank;
    options.adapter.seed = seed;
    options.window_tokens = engine->info().window_tokens;
    const absl::Status status = engine_->Open(options, inbox_);
    MAYFLY_CHECK(status.ok());
    handle_ = Wait<RowOpened>().row;
  }
  ~Row() {
    engine_->Close(handle_);
    Wait<RowClosed>();
  }
  Row(const Row&) = delete;
  Row& operator=(const Row&) = delete;

  void Submit(RowWork work) { engine_->Submit(handle_, ++last_id_, std::move(work)); }

  // The first event of this kind from here on; what comes before it is dropped, but for generated
  // tokens.
  template <typename Body>
  Body Wait() {
    while (true) {
      while (events_.empty()) events_ = inbox_->events.WaitAndTakeAll();
      const EngineEvent event = std::move(events_.front());
      events_.pop_front();
      if (const auto* delta = std::get_if<TextDelta>(&event.body)) {
        for (const GeneratedToken& token : delta->tokens) generated_.push_back(token.id);
      }
      MAYFLY_CHECK(!std::holds_alternative<WorkFailed>(event.body));
      if (const auto* body = std::get_if<Body>(&event.body)) return *body;
    }
  }

  std::vector<TokenId> TakeGenerated() { return std::exchange(generated_, {}); }

 private:
  struct Inbox final : TokenSink {
    void Offer(EngineEvent event) override { events.PostUnbounded(std::move(event)); }
    Mailbox<EngineEvent> events{static_cast<size_t>(-1)};
  };

  Engine* const engine_;
  const std::shared_ptr<Inbox> inbox_;
  RowHandle handle_;
  WorkId last_id_ = 0;
  std::deque<EngineEvent> events_;
  std::vector<TokenId> generated_;
};

class LoopBench {
 public:
  LoopBench(int32_t rows, int32_t rank, bool deterministic = false) {
    EngineOptions options;
    options.model_dir = kModel;
    options.threads = kBenchThreads;
    options.slots = rows;
    options.max_rank = rank;
    options.window_tokens = 2 * kChunk;
    options.deterministic = deterministic;
    auto engine = CreateEngine(options, &metrics_, &logger_, &clock_);
    MAYFLY_CHECK(engine.ok());
    engine_ = *std::move(engine);
    for (int32_t row = 0; row < rows; ++row) {
      rows_.push_back(std::make_unique<Row>(engine_.get(), rank, static_cast<uint64_t>(row)));
    }
  }

  Row& row(size_t index) { return *rows_[index]; }
  const std::vector<std::unique_ptr<Row>>& rows() const { return rows_; }
  TimePoint Now() const { return clock_.Now(); }

 private:
  const SteadyClock clock_;
  const Logger logger_{LogLevel::kError, LogFormat::kText};
  EngineMetrics metrics_;
  std::unique_ptr<Engine> engine_;
  std::vector<std::unique_ptr<Row>> rows_;
};

GenerateWork Generation(int32_t tokens, uint64_t seed) {
  GenerateWork work;
  work.sampling.temperature = 1;
  work.sampling.seed = seed;
  work.max_tokens = tokens;
  work.ignore_eos = true;
  work.horizon = static_cast<uint64_t>(-1);
  return work;
}

// Eight rows generate after prompts of their own; learning is off.
void Generate(benchmark::State& state, bool deterministic) {
  LoopBench bench(kSessions, 16, deterministic);
  for (int32_t i = 0; i < kSessions; ++i) {
    bench.row(static_cast<size_t>(i)).Submit(PrefillWork{Tokens(kPrompt, i * kPrompt)});
    bench.row(static_cast<size_t>(i)).Wait<Scored>();
  }
  for (auto _ : state) {
    const TimePoint begin = bench.Now();
    for (const auto& row : bench.rows()) row->Submit(Generation(kGenerated, 7));
    for (const auto& row : bench.rows()) row->Wait<GenerationDone>();
    state.SetIterationTime(Seconds(bench.Now() - begin));
    for (const auto& row : bench.rows()) {
      row->Submit(RefreshWork{kPrompt});
      row->Wait<RefreshDone>();
    }
  }
  Report(kSessions * kGenerated, &state);
}
void LoopGenerate(benchmark::State& state) { Generate(state, /*deterministic=*/false); }
BENCHMARK(LoopGenerate)->UseManualTime()->MinWarmUpTime(0.5)->MinTime(5);
void ChoiceDeterministicGenerate(benchmark::State& state) { Generate(state, true); }
BENCHMARK(ChoiceDeterministicGenerate)->UseManualTime()->MinWarmUpTime(0.5)->MinTime(5);

// A book is read: one row is fed 1,024 tokens, scored.
void Read(benchmark::State& state, bool deterministic) {
  LoopBench bench(1, 16, deterministic);
  for (auto _ : state) {
    bench.row(0).Submit(PrefillWork{.tokens = Tokens(kChunk, 0), .score = true});
    bench.row(0).Wait<Scored>();
    bench.row(0).Submit(RefreshWork{static_cast<uint64_t>(-1)});
    bench.row(0).Wait<RefreshDone>();
  }
  Report(kChunk, &state);
}
void ChoiceRead(benchmark::State& state) { Read(state, false); }
BENCHMARK(ChoiceRead)->UseRealTime()->MinWarmUpTime(0.5)->MinTime(3);
void ChoiceDeterministicRead(benchmark::State& state) { Read(state, true); }
BENCHMARK(ChoiceDeterministicRead)->UseRealTime()->MinWarmUpTime(0.5)->MinTime(3);

// One chunk of the authors' loop in one session: the context is computed under the adapter, a chunk
// is generated after it, then learned in two epochs with gradients through context and chunk.
void Authors(benchmark::State& state) {
  LoopBench bench(1, 64);
  Row& row = bench.row(0);
  const std::vector<TokenId> context = Tokens(kChunk, 0);
  for (auto _ : state) {
    row.Submit(PrefillWork{context});
    row.Submit(Generation(kChunk, 7));
    row.Wait<GenerationDone>();
    UpdateWork update;
    update.begin = kChunk;
    update.tokens = row.TakeGenerated();
    update.weights.assign(kChunk, 1.0f);
    update.context = context;
    update.gradient_scope = GradientScope::kWindow;
    update.epochs = 2;
    update.optimizer.learning_rate = 5e-5;
    update.grad_clip = 1.0;
    update.dropout = 0.05;
    row.Submit(std::move(update));
    if (row.Wait<UpdateDone>().outcome != UpdateOutcome::kApplied) state.SkipWithError("failed");
  }
  Report(kChunk, &state);
}
BENCHMARK(Authors)->UseRealTime()->Iterations(1);

}  // namespace
}  // namespace mayfly
