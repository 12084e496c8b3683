// What docs/decisions.md compares: one way of computing something beside another. Not part of the
// table; run with `engine_bench --benchmark_filter=Choice`.

#include <vector>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "benchmark/benchmark.h"
#include "engine/model/layers/lora_linear.h"
#include "tests/bench/report.h"
#include "tests/parity/test_trainer.h"
#include "tests/parity/tiny_model.h"

namespace mayfly {
namespace {

constexpr char kModel[] = "models/smollm2-135m-instruct";
constexpr int64_t kRows = 8;

TinyModel Load(int32_t rank, int32_t rows) {
  at::set_num_threads(kBenchThreads);
  return LoadTinyModel(kModel, NumericsFor(at::kCPU, DType::kBFloat16), /*window_tokens=*/2048,
                       rank, rows);
}

// Eight rows' adapters of one module of each layer, a token each, the frozen product included.
// `batched`: two batched products over views of the pool, as S-LoRA's gathered form; otherwise the
// kernel that reads each row where it lies.
void ChoiceAdapters(benchmark::State& state) {
  const c10::InferenceMode no_autograd;
  const bool batched = state.range(0) != 0;
  const TinyModel tiny = Load(16, kRows);
  const SlotLayout& layout = *tiny.layout;
  const ModuleShape shape = layout.shape(Module::kUp);
  AdapterSpec spec;
  std::vector<AdapterView> views;
  for (int64_t row = 0; row < kRows; ++row) {
    tiny.adapters->Initialize(row, spec);
    views.push_back(tiny.adapters->Serving(row, spec));
  }
  std::vector<LoraLinear> layers;
  for (int32_t layer = 0; layer < layout.layers(); ++layer) {
    const at::Tensor weight = at::randn({shape.out, shape.in}, tiny.numerics.WeightOptions());
    layers.emplace_back(tiny.numerics, layer, Linear(tiny.numerics, weight),
                        std::vector<Module>{Module::kUp}, layout);
  }
  const at::Tensor x = at::randn({kRows, shape.in}, tiny.numerics.MatrixOptions());
  std::vector<AdapterSegment> segments;
  for (int64_t row = 0; row < kRows && !batched; ++row) {
    segments.push_back({row, 1, &views[static_cast<size_t>(row)]});
  }
  const int64_t elements = layout.adapter_elements();
  const at::Tensor first = views[0].elements;
  const auto all_rows = [&](const AdapterTensor& tensor) {
    return first.as_strided({kRows, 16, tensor.width}, {elements, tensor.width, 1},
                            first.storage_offset() + tensor.offset);
  };
  for (auto _ : state) {
    for (int32_t layer = 0; layer < layout.layers(); ++layer) {
      at::Tensor y = layers[static_cast<size_t>(layer)].Forward(x, segments);
      if (batched) {
        const AdapterPair& pair = layout.pair(layer, Module::kUp);
        const at::Tensor a = at::bmm(x.unsqueeze(1), all_rows(pair.a).transpose(1, 2));
        y.add_(at::bmm(a, all_rows(pair.b)).squeeze(1), spec.scale());
      }
      benchmark::DoNotOptimize(y.data_ptr());
    }
  }
  Report(kRows, &state);
}
BENCHMARK(ChoiceAdapters)
    ->ArgName("batched")
    ->Arg(0)
    ->Arg(1)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime()
    ->MinWarmUpTime(0.5)
    ->MinTime(2);

// Four rows learn 256 tokens each, rank 16: one pass for all of them, or one after the other.
void ChoiceTrainingGroup(benchmark::State& state) {
  constexpr int64_t kChunk = 256, kLearning = 4;
  const c10::InferenceMode no_autograd;
  const size_t group_size = static_cast<size_t>(state.range(0));
  const TinyModel tiny = Load(16, kLearning);
  TestTrainer trainer(tiny, kBenchThreads);
  std::vector<UpdateJob> jobs;
  for (int32_t row = 0; row < kLearning; ++row) {
    UpdateJob job;
    job.row = {row, 1};
    tiny.adapters->Initialize(row, job.spec);
    job.state = tiny.adapters->State(row);
    for (int64_t i = 0; i < kChunk; ++i) {
      job.work.tokens.push_back(static_cast<TokenId>((row * kChunk + i) * 7919 % 49152));
    }
    job.work.weights.assign(kChunk, 1.0f);
    job.work.grad_clip = 1.0;
    jobs.push_back(job);
  }
  for (auto _ : state) {
    for (size_t begin = 0; begin < jobs.size(); begin += group_size) {
      const auto first = jobs.begin() + static_cast<ptrdiff_t>(begin);
      trainer.RunGroup({first, first + static_cast<ptrdiff_t>(group_size)});
    }
  }
  Report(kLearning * kChunk, &state);
}
BENCHMARK(ChoiceTrainingGroup)
    ->Arg(1)
    ->Arg(4)
    ->Unit(benchmark::kMillisecond)
    ->UseRealTime()
    ->MinWarmUpTime(0.5)
    ->MinTime(3);

}  // namespace
}  // namespace mayfly
