// The engine alone on the default model: what one forward pass and one update cost. Adapters are
// on. The peers of tests/bench/peers do the same work on the same shapes. Each benchmark reports
// the peak resident memory of the process; run.py starts one process for each.

#include <sys/resource.h>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "benchmark/benchmark.h"
#include "engine/runtime/model_runner.h"
#include "tests/parity/test_trainer.h"
#include "tests/parity/tiny_model.h"

namespace mayfly {
namespace {

constexpr char kModel[] = "models/smollm2-135m-instruct";
constexpr int32_t kWindow = 2048;
constexpr int32_t kThreads = 2;
constexpr int64_t kPrompt = 64;
constexpr int64_t kDecodeSteps = 64;

std::vector<TokenId> Tokens(size_t count) {
  std::vector<TokenId> tokens(count);
  for (size_t i = 0; i < count; ++i) tokens[i] = static_cast<TokenId>(i * 7919 % 49152);
  return tokens;
}

// The model with `rows` rows whose adapters are not zero.
class Bench {
 public:
  explicit Bench(int32_t rank, int32_t rows = 1)
      : tiny_(LoadTinyModel(kModel, DType::kBFloat16, kWindow, rank, rows)),
        runner_(tiny_.model.get(), tiny_.kv.get()),
        tokens_(Tokens(kWindow)) {
    at::set_num_threads(kThreads);
    spec_.rank = rank;
    spec_.alpha = rank;
    for (int64_t row = 0; row < rows; ++row) {
      spec_.seed = static_cast<uint64_t>(row);
      tiny_.adapters->Initialize(row, spec_);
      tiny_.adapters->State(row).serving.add_(1e-3);
      views_.push_back(tiny_.adapters->Serving(row, spec_));
    }
  }

  RunSlice Slice(int64_t row, int64_t begin, int64_t count) const {
    RunSlice slice;
    slice.row = row;
    slice.row_begin = begin;
    slice.tokens =
        std::span(tokens_).subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
    slice.adapter = &views_[static_cast<size_t>(row)];
    slice.want_logits = true;
    return slice;
  }

  const TinyModel& tiny() const { return tiny_; }
  const ModelRunner& runner() const { return runner_; }
  const AdapterSpec& spec() const { return spec_; }

 private:
  const c10::InferenceMode no_autograd_;
  const TinyModel tiny_;
  const ModelRunner runner_;
  const std::vector<TokenId> tokens_;
  AdapterSpec spec_;
  std::vector<AdapterView> views_;
};

void Report(int64_t tokens, benchmark::State* state) {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  state->SetItemsProcessed(state->iterations() * tokens);
  state->counters["peak_rss_bytes"] = static_cast<double>(usage.ru_maxrss) * 1024;
}

void Prefill(benchmark::State& state) {
  const Bench bench(16);
  for (auto _ : state) bench.runner().Run({bench.Slice(0, 0, 1024)});
  Report(1024, &state);
}
BENCHMARK(Prefill)->Unit(benchmark::kMillisecond)->UseRealTime()->MinWarmUpTime(0.5)->MinTime(3);

// kDecodeSteps tokens for each of `rows` sessions with adapters of their own.
void Decode(benchmark::State& state) {
  const int64_t rows = state.range(0);
  const Bench bench(16, static_cast<int32_t>(rows));
  for (int64_t row = 0; row < rows; ++row) bench.runner().Run({bench.Slice(row, 0, kPrompt)});
  for (auto _ : state) {
    for (int64_t step = 0; step < kDecodeSteps; ++step) {
      std::vector<RunSlice> slices;
      for (int64_t row = 0; row < rows; ++row)
        slices.push_back(bench.Slice(row, kPrompt + step, 1));
      bench.runner().Run(slices);
    }
  }
  Report(rows * kDecodeSteps, &state);
}
BENCHMARK(Decode)
    ->Arg(1)
    ->Arg(8)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime()
    ->MinWarmUpTime(0.5)
    ->MinTime(3);

// One epoch on 1,024 tokens after 1,024 tokens of context, gradients through the chunk alone.
void Update(benchmark::State& state) {
  const Bench bench(static_cast<int32_t>(state.range(0)));
  TestTrainer trainer(bench.tiny(), kThreads);
  const std::vector<TokenId> tokens = Tokens(2048);
  bench.runner().Run({bench.Slice(0, 0, 1024)});
  UpdateJob job;
  job.row = {0, 1};
  job.spec = bench.spec();
  job.state = bench.tiny().adapters->State(0);
  job.work.context.assign(tokens.begin(), tokens.begin() + 1024);
  job.work.tokens.assign(tokens.begin() + 1024, tokens.end());
  job.work.weights.assign(1024, 1.0f);
  job.work.grad_clip = 1.0;
  job.row_begin = 1024;
  for (auto _ : state) {
    const UpdateResult result = trainer.Run(job);
    if (result.done.outcome != UpdateOutcome::kApplied) state.SkipWithError("not applied");
    job.steps = result.steps;
  }
  Report(1024, &state);
}
BENCHMARK(Update)
    ->Arg(16)
    ->Arg(64)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime()
    ->MinWarmUpTime(0.5)
    ->MinTime(3);

}  // namespace
}  // namespace mayfly

BENCHMARK_MAIN();
