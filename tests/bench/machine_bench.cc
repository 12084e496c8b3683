// What the machine can do at most: the ends of the scale on which the engine's figures lie.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "benchmark/benchmark.h"
#include "tests/bench/report.h"

namespace mayfly {
namespace {

// Floating point operations of a bfloat16 matrix product, a second; square, as large as products
// get efficient. run.py takes the fastest size.
void MatrixProduct(benchmark::State& state) {
  at::set_num_threads(kBenchThreads);
  const int64_t n = state.range(0);
  const at::Tensor a = at::randn({n, n}).to(at::kBFloat16), b = at::randn_like(a);
  at::Tensor c = at::empty_like(a);
  for (auto _ : state) at::mm_out(c, a, b);
  state.counters["flops"] = benchmark::Counter(2.0 * static_cast<double>(n * n * n),
                                               benchmark::Counter::kIsIterationInvariantRate);
}
BENCHMARK(MatrixProduct)->Arg(1024)->Arg(2048)->UseRealTime()->MinWarmUpTime(0.2)->MinTime(1);

// As many bytes as lie far outside of every cache.
constexpr int64_t kBytes = int64_t{1} << 29;
// A block is read from as many places at once: one alone leaves the memory waiting, since the
// hardware's prefetcher stops at the end of each page.
constexpr int64_t kPlaces = 8, kPlaceLines = 1024;
constexpr int64_t kBlockLines = kPlaces * kPlaceLines;

using Line = uint64_t __attribute__((vector_size(64)));

// The sum of a block. Compiled for the widest registers there are.
__attribute__((target_clones("default", "avx2", "avx512f"))) uint64_t SumBlock(const Line* block) {
  Line sum[kPlaces] = {};
  for (int64_t i = 0; i < kPlaceLines; ++i) {
#pragma GCC unroll 8
    for (int64_t place = 0; place < kPlaces; ++place) sum[place] += block[place * kPlaceLines + i];
  }
  Line all = {};
  for (const Line& one : sum) all += one;
  uint64_t total = 0;
  for (size_t i = 0; i < 8; ++i) total += all[i];
  return total;
}

// Bytes read from memory a second.
void MemoryRead(benchmark::State& state) {
  at::set_num_threads(kBenchThreads);
  const at::Tensor buffer = at::ones({kBytes / 8}, at::kLong);
  const auto* const lines = reinterpret_cast<const Line*>(buffer.const_data_ptr<int64_t>());
  for (auto _ : state) {
    at::parallel_for(0, kBytes / 64 / kBlockLines, 1, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        benchmark::DoNotOptimize(SumBlock(lines + block * kBlockLines));
      }
    });
  }
  state.SetBytesProcessed(state.iterations() * kBytes);
}
BENCHMARK(MemoryRead)->UseRealTime()->MinWarmUpTime(0.2)->MinTime(1);

}  // namespace
}  // namespace mayfly
