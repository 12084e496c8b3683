#pragma once

// Matrix products of the kernels; see kernels_impl.h for who includes it.

#include "engine/device/cpu/kernels.h"
#include "engine/device/cpu/vector.h"

namespace mayfly::cpu {
namespace {

// ---- A few rows against a weight matrix that is read once -------------------------------------

// One step along k: kLanes floats, or twice as many bfloat16 numbers where both sides are.
template <typename X, typename W>
constexpr int64_t kStep = sizeof(X) == 2 && sizeof(W) == 2 ? 2 * kLanes : kLanes;

template <typename X, typename W>
inline auto LoadStep(const X* x) {
  if constexpr (kStep<X, W> == kLanes) {
    return Load(x);
  } else {
    return LoadAs<Words>(x);
  }
}

inline Floats Step(Floats sum, Floats x, Floats w) { return sum + x * w; }
inline Floats Step(Floats sum, Words x, Words w) { return MultiplyAdd<BFloat16>(sum, x, w); }

// The products from `begin` on, which fill no step.
template <typename X, typename W>
inline float AddRest(float sum, const X* x, const W* w, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) sum += Value(x[i]) * Value(w[i]);
  return sum;
}

// A dot product of the whole steps, its lanes not yet added up.
template <typename X, typename W>
inline Floats DotLanes(const X* x, const W* w, int64_t count) {
  Floats sum = {};
  for (int64_t i = 0; i + kStep<X, W> <= count; i += kStep<X, W>) {
    sum = Step(sum, LoadStep<X, W>(x + i), LoadStep<W, X>(w + i));
  }
  return sum;
}
// Adds what fills no step.
template <typename X, typename W>
inline float AddDotRest(float sum, const X* x, const W* w, int64_t count) {
  return AddRest(sum, x, w, count / kStep<X, W> * kStep<X, W>, count);
}

template <typename X, typename W>
inline float Dot(const X* x, const W* w, int64_t count) {
  return AddDotRest(Sum(DotLanes(x, w, count)), x, w, count);
}

// Asks for what lies far ahead of its use, into the second-level cache: the first one has too few
// requests in flight to cover the memory's latency, and the hardware's prefetcher stops at the end
// of a page, which a row of weights crosses or nearly fills.
constexpr int64_t kPrefetchBytes = 12 * 1024;
inline void AskAhead(const void* p) {
  __builtin_prefetch(static_cast<const char*>(p) + kPrefetchBytes, /*rw=*/0, /*locality=*/2);
}

// kOut rows of w against kRows rows of x. Each element's sum runs over k in the same order whatever
// kOut and kRows are.
template <int kRows, int kOut, typename X, typename W, typename Y>
inline void Tile(const X* x, int64_t in, const W* w, const float* bias, Y* y, int64_t y_stride) {
  Floats sum[kOut][kRows] = {};
  int64_t k = 0;
  for (; k + kStep<X, W> <= in; k += kStep<X, W>) {
    decltype(LoadStep<X, W>(x)) inputs[kRows];
    for (int m = 0; m < kRows; ++m) inputs[m] = LoadStep<X, W>(x + m * in + k);
    for (int n = 0; n < kOut; ++n) {
      const W* const step = w + n * in + k;
      AskAhead(step);
      const auto weights = LoadStep<W, X>(step);
      for (int m = 0; m < kRows; ++m) sum[n][m] = Step(sum[n][m], inputs[m], weights);
    }
  }
  float totals[kOut * kRows];
  Sums<kOut * kRows>(sum[0], totals);
  for (int n = 0; n < kOut; ++n) {
    for (int m = 0; m < kRows; ++m) {
      const float total = AddRest(totals[n * kRows + m], x + m * in, w + n * in, k, in);
      Assign(y + m * y_stride + n, total + (bias != nullptr ? bias[n] : 0.0f));
    }
  }
}

template <int kOut, typename X, typename W, typename Y>
inline void TileRows(const X* x, int64_t rows, int64_t in, const W* w, const float* bias, Y* y,
                     int64_t y_stride) {
  int64_t m = 0;
  for (; m + 8 <= rows; m += 8) Tile<8, kOut>(x + m * in, in, w, bias, y + m * y_stride, y_stride);
  for (; m + 4 <= rows; m += 4) Tile<4, kOut>(x + m * in, in, w, bias, y + m * y_stride, y_stride);
  for (; m + 2 <= rows; m += 2) Tile<2, kOut>(x + m * in, in, w, bias, y + m * y_stride, y_stride);
  for (; m < rows; ++m) Tile<1, kOut>(x + m * in, in, w, bias, y + m * y_stride, y_stride);
}

template <typename X, typename W, typename Y>
void LinearOf(const X* x, int64_t rows, int64_t in, const W* w, const float* bias, int64_t begin,
              int64_t end, Y* y, int64_t y_stride) {
  // With 8 rows their inputs, the sums and a weight fill the registers.
  constexpr int kOut = kLanes == 16 ? 2 : 1;
  constexpr int kOutOne = 4;
  int64_t n = begin;
  const auto bias_at = [&] { return bias != nullptr ? bias + n : nullptr; };
  if (rows == 1) {
    for (; n + kOutOne <= end; n += kOutOne) {
      Tile<1, kOutOne>(x, in, w + n * in, bias_at(), y + n, y_stride);
    }
  }
  for (; n + kOut <= end; n += kOut) {
    TileRows<kOut>(x, rows, in, w + n * in, bias_at(), y + n, y_stride);
  }
  for (; n < end; ++n) TileRows<1>(x, rows, in, w + n * in, bias_at(), y + n, y_stride);
}

void LinearKernel(ConstArray x, int64_t rows, int64_t in, ConstArray w, const float* bias,
                  int64_t begin, int64_t end, Array y, int64_t y_stride) {
  const auto run = [&](const auto* input, const auto* weight, auto* result) {
    LinearOf(input, rows, in, weight, bias, begin, end, result, y_stride);
  };
  WithType(w, [&](const auto* weight) {
    if constexpr (sizeof(*weight) == 2) {
      if (x.type == Type::kBFloat16) {
        WithType(y,
                 [&](auto* result) { run(static_cast<const BFloat16*>(x.data), weight, result); });
        return;
      }
    }
    run(static_cast<const float*>(x.data), weight, static_cast<float*>(y.data));
  });
}

// sum[i] (+)= sum over kRanks rows of b of a[r] * b[r][i], in the order of the rows; `count` is a
// multiple of kLanes.
template <int kRanks, typename B>
inline void ExpandRows(const float* a, const B* b, int64_t width, int64_t count, bool add,
                       float* sum) {
  for (int64_t i = 0; i < count; i += kLanes) {
    Floats total = add ? Load(sum + i) : Floats{};
    for (int r = 0; r < kRanks; ++r) {
      AskAhead(b + r * width + i);
      total += Load(b + r * width + i) * a[r];
    }
    Store(sum + i, total);
  }
}

// Rows of b are read from end to end, as they lie in memory; their sums stay in the cache.
template <typename B, typename Y>
void ExpandOf(const float* a, int64_t rank, const B* b, int64_t width, float scale, int64_t begin,
              int64_t end, Y* y) {
  constexpr int64_t kBlock = 1024;
  float sum[kBlock];
  int64_t n = begin;
  while (n + kLanes <= end) {
    const int64_t count = (end - n < kBlock ? end - n : kBlock) / kLanes * kLanes;
    int64_t r = 0;
    for (; r + 4 <= rank; r += 4) {
      ExpandRows<4>(a + r, b + r * width + n, width, count, r > 0, sum);
    }
    for (; r < rank; ++r) ExpandRows<1>(a + r, b + r * width + n, width, count, r > 0, sum);
    for (int64_t i = 0; i < count; i += kLanes) {
      Store(y + n + i, Load(y + n + i) + Load(sum + i) * scale);
    }
    n += count;
  }
  for (; n < end; ++n) {
    float rest = 0;
    for (int64_t r = 0; r < rank; ++r) rest += Value(b[r * width + n]) * a[r];
    Assign(y + n, Value(y[n]) + rest * scale);
  }
}

void ExpandKernel(const float* a, int64_t rank, ConstArray b, int64_t width, float scale,
                  int64_t begin, int64_t end, Array y) {
  const auto run = [&](const auto* matrix, auto* out) {
    ExpandOf(a, rank, matrix, width, scale, begin, end, out);
  };
  const bool half = b.type == Type::kBFloat16;
  if (y.type == Type::kBFloat16 && half) {
    run(static_cast<const BFloat16*>(b.data), static_cast<BFloat16*>(y.data));
  } else if (half) {
    run(static_cast<const BFloat16*>(b.data), static_cast<float*>(y.data));
  } else {
    run(static_cast<const float*>(b.data), static_cast<float*>(y.data));
  }
}

// ---- Blocks -----------------------------------------------------------------------------------
//
// C (+)= A B with the elements of a word side by side along the inner dimension: A is [m, words]
// row-major, B comes in panels of kPanel columns, [words, kPanel] each. C: [m, columns] fp32.

constexpr int64_t kColumnVectors = kLanes == 16 ? 4 : 2;
constexpr int64_t kPanel = kColumnVectors * kLanes;
constexpr int64_t kRowsAtOnce = 6;

template <typename T, int kRows>
inline void PanelTile(const uint32_t* a, int64_t a_stride, const uint32_t* b, int64_t words,
                      float* c, int64_t c_stride, bool add) {
  Floats sum[kRows][kColumnVectors] = {};
  for (int64_t k = 0; k < words; ++k) {
    for (int m = 0; m < kRows; ++m) {
      const Words element = Words{} + a[m * a_stride + k];
      for (int64_t j = 0; j < kColumnVectors; ++j) {
        sum[m][j] = MultiplyAdd<T>(sum[m][j], element, LoadAs<Words>(b + k * kPanel + j * kLanes));
      }
    }
  }
  for (int m = 0; m < kRows; ++m) {
    for (int64_t j = 0; j < kColumnVectors; ++j) {
      float* const out = c + m * c_stride + j * kLanes;
      Store(out, add ? Load(out) + sum[m][j] : sum[m][j]);
    }
  }
}

template <typename T>
void BlockProduct(const uint32_t* a, int64_t a_stride, int64_t m, const uint32_t* b, int64_t words,
                  int64_t panels, float* c, int64_t c_stride, bool add) {
  for (int64_t panel = 0; panel < panels; ++panel) {
    const uint32_t* const columns = b + panel * words * kPanel;
    float* const out = c + panel * kPanel;
    int64_t row = 0;
    for (; row + kRowsAtOnce <= m; row += kRowsAtOnce) {
      PanelTile<T, kRowsAtOnce>(a + row * a_stride, a_stride, columns, words, out + row * c_stride,
                                c_stride, add);
    }
    for (; row + 2 <= m; row += 2) {
      PanelTile<T, 2>(a + row * a_stride, a_stride, columns, words, out + row * c_stride, c_stride,
                      add);
    }
    if (row < m) {
      PanelTile<T, 1>(a + row * a_stride, a_stride, columns, words, out + row * c_stride, c_stride,
                      add);
    }
  }
}

// Element (k, n) of B is element k of row n of `rows`: [n, words], `stride` words apart. Columns
// from `count` on are zero.
inline void PackTransposed(const uint32_t* rows, int64_t stride, int64_t count, int64_t words,
                           int64_t columns, uint32_t* b) {
  for (int64_t n = 0; n < columns; ++n) {
    uint32_t* const out = b + n / kPanel * words * kPanel + n % kPanel;
    for (int64_t k = 0; k < words; ++k) out[k * kPanel] = n < count ? rows[n * stride + k] : 0;
  }
}

}  // namespace
}  // namespace mayfly::cpu
