// The model alone on the default checkpoint: what one forward pass and one update cost. Adapters
// are on. The peers of tests/bench/peers do the same work on the same shapes. run.py starts one
// process for each benchmark, so that its peak memory is its own.

#include <cstdio>
#include <string>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "benchmark/benchmark.h"
#include "engine/device/open_device.h"
#include "engine/runtime/model_runner.h"
#include "engine/runtime/sampler.h"
#include "tests/bench/report.h"
#include "tests/parity/test_trainer.h"
#include "tests/parity/tiny_model.h"

namespace mayfly {
namespace {

// --cuda as the first argument: on a GPU, with the library of engine/device/cuda if it is there.
Numerics& BenchNumerics() {
  static Numerics numerics = NumericsFor(at::kCPU, DType::kBFloat16);
  return numerics;
}

constexpr char kModel[] = "models/smollm2-135m-instruct";
constexpr int32_t kWindow = 2048;
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
      : tiny_(LoadTinyModel(kModel, BenchNumerics(), kWindow, rank, rows)),
        runner_(tiny_.model.get(), tiny_.kv.get()),
        tokens_(Tokens(kWindow)) {
    at::set_num_threads(kBenchThreads);
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

void Prefill(benchmark::State& state) {
  const Bench bench(16);
  for (auto _ : state) bench.runner().Run({bench.Slice(0, 0, 1024)});
  Report(1024, &state);
}
BENCHMARK(Prefill)->Unit(benchmark::kMillisecond)->UseRealTime()->MinWarmUpTime(0.5)->MinTime(3);

// kDecodeSteps tokens for each of `rows` sessions with adapters of their own, after `prompt`
// tokens.
void DecodeAfter(benchmark::State& state, int64_t prompt) {
  const int64_t rows = state.range(0);
  const Bench bench(16, static_cast<int32_t>(rows));
  for (int64_t row = 0; row < rows; ++row) bench.runner().Run({bench.Slice(row, 0, prompt)});
  for (auto _ : state) {
    for (int64_t step = 0; step < kDecodeSteps; ++step) {
      std::vector<RunSlice> slices;
      for (int64_t row = 0; row < rows; ++row) slices.push_back(bench.Slice(row, prompt + step, 1));
      bench.runner().Run(slices);
    }
  }
  Report(rows * kDecodeSteps, &state);
}
void Decode(benchmark::State& state) { DecodeAfter(state, kPrompt); }
BENCHMARK(Decode)
    ->Arg(1)
    ->Arg(8)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime()
    ->MinWarmUpTime(0.5)
    ->MinTime(3);

// Where keys and values are more to read than the weights.
void DecodeLong(benchmark::State& state) { DecodeAfter(state, kWindow - kDecodeSteps); }
BENCHMARK(DecodeLong)
    ->Arg(8)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime()
    ->MinWarmUpTime(0.5)
    ->MinTime(3);

// What the engine's loop does for eight rows that generate, without the loop: forward passes and
// sampling at temperature 1. loop_bench.cc and service_bench.cc do the same work around it.
void Generate(benchmark::State& state) {
  constexpr int64_t kRows = 8, kTokens = 192;
  const Bench bench(16, kRows);
  const SamplingOptions sampling;
  for (int64_t row = 0; row < kRows; ++row) bench.runner().Run({bench.Slice(row, 0, kPrompt)});
  for (auto _ : state) {
    for (int64_t position = kPrompt; position < kPrompt + kTokens; ++position) {
      std::vector<RunSlice> slices;
      for (int64_t row = 0; row < kRows; ++row) slices.push_back(bench.Slice(row, position, 1));
      for (RunOutput& output : bench.runner().Run(slices)) {
        const std::span<float> logits(output.logits.mutable_data_ptr<float>(),
                                      static_cast<size_t>(output.logits.numel()));
        benchmark::DoNotOptimize(
            SampleToken(sampling, {logits, nullptr, nullptr, static_cast<uint64_t>(position)}));
      }
    }
  }
  Report(kRows * kTokens, &state);
}
BENCHMARK(Generate)->Unit(benchmark::kMillisecond)->UseRealTime()->MinWarmUpTime(0.5)->MinTime(5);

// One epoch on 1,024 tokens after 1,024 tokens of context, gradients through the chunk alone.
void Update(benchmark::State& state) {
  const Bench bench(static_cast<int32_t>(state.range(0)));
  TestTrainer trainer(bench.tiny(), kBenchThreads);
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

int main(int argc, char** argv) {
  if (argc > 1 && std::string(argv[1]) == "--cuda") {
    const mayfly::OpenedDevice opened = mayfly::OpenDevice("cuda").value();
    if (!opened.note.empty()) std::fprintf(stderr, "%s\n", opened.note.c_str());
    mayfly::BenchNumerics() = mayfly::NumericsFor(opened.device, mayfly::DType::kBFloat16);
    mayfly::BenchNumerics().ops = opened.ops;
    --argc;
    for (int i = 1; i <= argc; ++i) argv[i] = argv[i + 1];
  }
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
