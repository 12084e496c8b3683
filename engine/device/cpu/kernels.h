#pragma once

// Kernels for the few rows of a decode step on a CPU, where general matrix libraries leave most of the
// memory bandwidth unused (docs/decisions.md has the figures). Each works on a range of its output, so
// that the caller decides how to share it among threads. No tensors here: these files are compiled once
// per instruction set, and nothing that is also compiled elsewhere may be included.
//
// The result of an output element depends on its inputs alone, never on the range or on other rows.
// Pure functions; any thread.

#include <cstdint>

namespace mayfly::cpu {

enum class WeightType { kBFloat16, kFloat32 };

// A weight matrix [rows, columns], row-major and contiguous.
struct WeightMatrix {
  const void* data = nullptr;
  WeightType type = WeightType::kFloat32;
};

struct Kernels {
  const char* name;

  // y[m][n] = sum over k of x[m][k] * w[n][k] (+ bias[n]) for n in [begin, end).
  // x: [rows, in]; w: [>= end, in]; y: [rows, y_stride]; bias may be null.
  void (*linear)(const float* x, int64_t rows, int64_t in, WeightMatrix w, const float* bias,
                 int64_t begin, int64_t end, float* y, int64_t y_stride);

  // y[n] += scale * sum over r of a[r] * b[r][n] for n in [begin, end).
  // a: [rank]; b: [rank, width].
  void (*expand)(const float* a, int64_t rank, WeightMatrix b, int64_t width, float scale,
                 int64_t begin, int64_t end, float* y);

  // y = x * rsqrt(mean(x^2) + eps) * weight. x, y, weight: [width].
  void (*rms_norm)(const float* x, const float* weight, double eps, int64_t width, float* y);

  // y = silu(gate) * up. gate_up: [2 * width], the gate first; y: [width].
  void (*silu_mul)(const float* gate_up, int64_t width, float* y);

  // One query token's attention over `keys` positions, for `group` query heads that share one key-value
  // head. q, out: [group, head_dim]; k, v: [keys, head_dim]; scores: scratch [group, keys].
  void (*attend)(const float* q, int64_t group, WeightMatrix k, WeightMatrix v, int64_t keys,
                 int64_t head_dim, float scale, float* scores, float* out);
};

// The fastest set that this machine can run.
const Kernels& BestKernels();
// One a supported instruction set, slowest first: what the tests compare.
struct KernelList {
  const Kernels* const* begin_;
  int64_t count;
};
KernelList SupportedKernels();

}  // namespace mayfly::cpu
