// The kernels themselves, compiled once per instruction set: the including file defines
// MAYFLY_KERNELS (the name of the table) and MAYFLY_LANES (floats in a vector register).

#include <cmath>
#include <cstdint>
#include <cstring>

#include "engine/device/cpu/kernels.h"

namespace mayfly::cpu {
namespace {

constexpr int64_t kLanes = MAYFLY_LANES;
using Floats = float __attribute__((vector_size(4 * MAYFLY_LANES)));
using Words = uint32_t __attribute__((vector_size(4 * MAYFLY_LANES)));
using HalfWords = uint16_t __attribute__((vector_size(2 * MAYFLY_LANES)));

struct BFloat16 {
  uint16_t bits;
};

inline float Value(float x) { return x; }
inline float Value(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

inline Floats Load(const float* p) {
  Floats v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}
// A bfloat16 is the upper half of a float.
inline Floats Load(const BFloat16* p) {
  HalfWords half;
  std::memcpy(&half, p, sizeof(half));
  const Words words = __builtin_convertvector(half, Words) << 16;
  Floats v;
  std::memcpy(&v, &words, sizeof(v));
  return v;
}
inline void Store(float* p, Floats v) { std::memcpy(p, &v, sizeof(v)); }

inline float Sum(Floats v) {
  float sum = 0;
  for (int64_t i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
}

// kOut rows of w against kRows rows of x. Each element's sum runs over k in the same order whatever
// kOut and kRows are.
template <int kRows, int kOut, typename W>
inline void Tile(const float* x, int64_t in, const W* w, const float* bias, float* y,
                 int64_t y_stride) {
  Floats sum[kOut][kRows] = {};
  int64_t k = 0;
  for (; k + kLanes <= in; k += kLanes) {
    Floats column[kRows];
    for (int m = 0; m < kRows; ++m) column[m] = Load(x + m * in + k);
    for (int n = 0; n < kOut; ++n) {
      const Floats weight = Load(w + n * in + k);
      for (int m = 0; m < kRows; ++m) sum[n][m] += weight * column[m];
    }
  }
  for (int n = 0; n < kOut; ++n) {
    for (int m = 0; m < kRows; ++m) {
      float total = Sum(sum[n][m]);
      for (int64_t rest = k; rest < in; ++rest) total += Value(w[n * in + rest]) * x[m * in + rest];
      y[m * y_stride + n] = total + (bias != nullptr ? bias[n] : 0.0f);
    }
  }
}

template <int kOut, typename W>
inline void TileRows(const float* x, int64_t rows, int64_t in, const W* w, const float* bias, float* y,
                     int64_t y_stride) {
  int64_t m = 0;
  for (; m + 4 <= rows; m += 4) Tile<4, kOut>(x + m * in, in, w, bias, y + m * y_stride, y_stride);
  for (; m < rows; ++m) Tile<1, kOut>(x + m * in, in, w, bias, y + m * y_stride, y_stride);
}

template <typename W>
void LinearOf(const float* x, int64_t rows, int64_t in, const W* w, const float* bias, int64_t begin,
              int64_t end, float* y, int64_t y_stride) {
  constexpr int kOut = 4;
  int64_t n = begin;
  for (; n + kOut <= end; n += kOut) {
    TileRows<kOut>(x, rows, in, w + n * in, bias != nullptr ? bias + n : nullptr, y + n, y_stride);
  }
  for (; n < end; ++n) {
    TileRows<1>(x, rows, in, w + n * in, bias != nullptr ? bias + n : nullptr, y + n, y_stride);
  }
}

void LinearKernel(const float* x, int64_t rows, int64_t in, WeightMatrix w, const float* bias,
                  int64_t begin, int64_t end, float* y, int64_t y_stride) {
  if (w.type == WeightType::kBFloat16) {
    LinearOf(x, rows, in, static_cast<const BFloat16*>(w.data), bias, begin, end, y, y_stride);
  } else {
    LinearOf(x, rows, in, static_cast<const float*>(w.data), bias, begin, end, y, y_stride);
  }
}

template <typename W>
void ExpandOf(const float* a, int64_t rank, const W* b, int64_t width, float scale, int64_t begin,
              int64_t end, float* y) {
  int64_t n = begin;
  for (; n + kLanes <= end; n += kLanes) {
    Floats sum = {};
    for (int64_t r = 0; r < rank; ++r) sum += Load(b + r * width + n) * a[r];
    Store(y + n, Load(y + n) + sum * scale);
  }
  for (; n < end; ++n) {
    float sum = 0;
    for (int64_t r = 0; r < rank; ++r) sum += Value(b[r * width + n]) * a[r];
    y[n] += sum * scale;
  }
}

void ExpandKernel(const float* a, int64_t rank, WeightMatrix b, int64_t width, float scale,
                  int64_t begin, int64_t end, float* y) {
  if (b.type == WeightType::kBFloat16) {
    ExpandOf(a, rank, static_cast<const BFloat16*>(b.data), width, scale, begin, end, y);
  } else {
    ExpandOf(a, rank, static_cast<const float*>(b.data), width, scale, begin, end, y);
  }
}

template <typename A, typename B>
inline float Dot(const A* a, const B* b, int64_t count) {
  Floats sum = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sum += Load(a + i) * Load(b + i);
  float total = Sum(sum);
  for (; i < count; ++i) total += Value(a[i]) * Value(b[i]);
  return total;
}

void RmsNormKernel(const float* x, const float* weight, double eps, int64_t width, float* y) {
  const float inverse =
      1.0f / std::sqrt(Dot(x, x, width) / static_cast<float>(width) + static_cast<float>(eps));
  for (int64_t i = 0; i < width; ++i) y[i] = x[i] * inverse * weight[i];
}

void SiluMulKernel(const float* gate_up, int64_t width, float* y) {
  const float* up = gate_up + width;
  for (int64_t i = 0; i < width; ++i) y[i] = gate_up[i] / (1.0f + std::exp(-gate_up[i])) * up[i];
}

template <typename T>
void AttendOf(const float* q, int64_t group, const T* k, const T* v, int64_t keys, int64_t head_dim,
              float scale, float* scores, float* out) {
  for (int64_t s = 0; s < keys; ++s) {
    for (int64_t g = 0; g < group; ++g) {
      scores[g * keys + s] = Dot(q + g * head_dim, k + s * head_dim, head_dim) * scale;
    }
  }
  for (int64_t g = 0; g < group; ++g) {
    float* row = scores + g * keys;
    float best = row[0];
    for (int64_t s = 1; s < keys; ++s) best = row[s] > best ? row[s] : best;
    float total = 0;
    for (int64_t s = 0; s < keys; ++s) {
      row[s] = std::exp(row[s] - best);
      total += row[s];
    }
    for (int64_t s = 0; s < keys; ++s) row[s] /= total;
    for (int64_t i = 0; i < head_dim; ++i) out[g * head_dim + i] = 0;
  }
  for (int64_t g = 0; g < group; ++g) {
    for (int64_t i = 0; i + kLanes <= head_dim; i += kLanes) {
      Floats sum = {};
      for (int64_t s = 0; s < keys; ++s) sum += Load(v + s * head_dim + i) * scores[g * keys + s];
      Store(out + g * head_dim + i, sum);
    }
    for (int64_t i = head_dim - head_dim % kLanes; i < head_dim; ++i) {
      for (int64_t s = 0; s < keys; ++s) {
        out[g * head_dim + i] += Value(v[s * head_dim + i]) * scores[g * keys + s];
      }
    }
  }
}

void AttendKernel(const float* q, int64_t group, WeightMatrix k, WeightMatrix v, int64_t keys,
                  int64_t head_dim, float scale, float* scores, float* out) {
  if (k.type == WeightType::kBFloat16) {
    AttendOf(q, group, static_cast<const BFloat16*>(k.data), static_cast<const BFloat16*>(v.data),
             keys, head_dim, scale, scores, out);
  } else {
    AttendOf(q, group, static_cast<const float*>(k.data), static_cast<const float*>(v.data), keys,
             head_dim, scale, scores, out);
  }
}

}  // namespace

extern const Kernels MAYFLY_KERNELS;
const Kernels MAYFLY_KERNELS = {MAYFLY_KERNELS_NAME, LinearKernel,  ExpandKernel,
                                RmsNormKernel,       SiluMulKernel, AttendKernel};

}  // namespace mayfly::cpu
