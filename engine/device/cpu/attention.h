#pragma once

// Causal attention of the kernels; see kernels_impl.h for who includes it.
//
// Scores are kept with keys along rows and queries along columns, so that each query's maximum and
// sum run down a vector register and the probabilities come out as the right-hand side of the next
// product. The softmax is taken online over blocks of keys (Dao et al., arXiv 2205.14135), and the
// gradient computes the probabilities again from the stored log-sum-exp.

#include <type_traits>

#include "engine/device/cpu/elementwise.h"
#include "engine/device/cpu/kernels.h"
#include "engine/device/cpu/products.h"

namespace mayfly::cpu {
namespace {

using Integers = int32_t __attribute__((vector_size(4 * MAYFLY_LANES)));

// Columns of a block of queries; kPanel divides it whatever the instruction set.
constexpr int64_t kColumns = kQueryBlock;
constexpr int64_t kColumnPanels = kColumns / kPanel;

constexpr int64_t PaddedDim(int64_t head_dim) {
  return (head_dim + kColumns - 1) / kColumns * kColumns;
}

inline const uint32_t* AsWords(const void* p) { return static_cast<const uint32_t*>(p); }

// Hands out consecutive parts of a task's scratch memory.
class Scratch {
 public:
  explicit Scratch(float* begin) : next_(begin) {}
  float* Take(int64_t floats) {
    float* const part = next_;
    next_ += floats;
    return part;
  }
  uint32_t* TakeWords(int64_t words) { return reinterpret_cast<uint32_t*>(Take(words)); }

 private:
  float* next_;
};

// One head's block of queries.
template <typename T>
struct QueryBlock {
  QueryBlock(const AttentionInputs& in, int64_t head_index, int64_t block)
      : shape(in.shape),
        head(head_index),
        begin(block * kQueryBlock),
        count(shape.tokens - begin < kQueryBlock ? shape.tokens - begin : kQueryBlock),
        position(shape.keys - shape.tokens + begin),
        words(shape.head_dim / kPerWord<T>),
        q(static_cast<const T*>(in.q.data) + begin * in.q_stride + head * shape.head_dim) {
    const int64_t key_head = head / (shape.heads / shape.kv_heads);
    k = static_cast<const T*>(in.k.data) + key_head * in.kv_stride;
    v = static_cast<const T*>(in.v.data) + key_head * in.kv_stride;
    transposed_words = shape.padded_keys() / kPerWord<T>;
    transposed = AsWords(in.transposed.data) + key_head * shape.head_dim * transposed_words;
  }
  // Keys that the last query sees.
  int64_t visible() const { return position + count; }
  // Element of out or dout for the block's first query.
  int64_t OutOffset() const { return begin * shape.heads * shape.head_dim + head * shape.head_dim; }
  int64_t out_stride() const { return shape.heads * shape.head_dim; }

  const AttentionShape& shape;
  int64_t head;
  int64_t begin;
  int64_t count;
  int64_t position;  // of the first query among the keys
  int64_t words;     // of a head's elements
  const T* q;
  const T* k;
  const T* v;
  const uint32_t* transposed;
  int64_t transposed_words;
};

struct KeyRange {
  int64_t begin;
  int64_t count;
  int64_t column;  // in the transposed copy
};

template <typename T>
constexpr int64_t WordsOf(int64_t keys) {
  return (keys + kPerWord<T> - 1) / kPerWord<T>;
}

// Calls visit(KeyRange, whether it belongs to the prefix) for the keys that a block of queries
// sees.
template <typename Visit>
void ForKeyBlocks(const AttentionShape& shape, int64_t visible, const Visit& visit) {
  const auto range = [&](int64_t first, int64_t end, int64_t column, bool prefix) {
    for (int64_t begin = first; begin < end; begin += kKeyBlock) {
      const int64_t count = end - begin < kKeyBlock ? end - begin : kKeyBlock;
      visit(KeyRange{begin, count, column + begin - first}, prefix);
    }
  };
  range(0, shape.prefix, 0, true);
  range(shape.prefix, visible, (shape.prefix + 1) / 2 * 2, false);
}

// Which of the columns [column, column + kLanes) may see a key that lies `after` positions behind
// the first column's query.
inline Integers Sees(int64_t column, int64_t after) {
  Integers lane;
  for (int32_t i = 0; i < kLanes; ++i) lane[i] = i;
  return lane >= static_cast<int32_t>(after - column);
}

// The words of two rows for a product's right-hand side; of one row where an element fills a word.
template <typename T>
inline void StorePair(uint32_t* words, Floats first, Floats second) {
  const Words pair = sizeof(T) == 2 ? Pair(first, second) : Bits<Words>(first);
  std::memcpy(words, &pair, sizeof(pair));
}

// Where the words of rows [row, row + kPerWord) and columns from `column` lie in panels of `words`
// rows.
template <typename T>
inline uint32_t* PanelWord(uint32_t* panels, int64_t words, int64_t row, int64_t column) {
  return panels + (column / kPanel * words + row / kPerWord<T>)*kPanel + column % kPanel;
}

// ---- Forward ----------------------------------------------------------------------------------

// Scales and masks one column vector of scores, raises the running maximum, and turns the scores
// into probabilities in `p`. Returns what the sums so far must be multiplied by.
template <typename T>
inline Floats SoftmaxColumn(float* scores, const KeyRange& keys, int64_t after, float scale,
                            int64_t column, float* maximum, float* total, uint32_t* p) {
  Floats highest = Load(maximum + column);
  const Floats before = highest;
  for (int64_t row = 0; row < keys.count; ++row) {
    float* const place = scores + row * kColumns + column;
    Floats score = Load(place) * scale;
    if (after + row > column) score = Sees(column, after + row) ? score : Floats{} - INFINITY;
    Store(place, score);
    highest = Max(highest, score);
  }
  const Floats correction = Exp(before - highest);
  Floats sum = Load(total + column) * correction;
  for (int64_t row = 0; row < keys.count; row += kPerWord<T>) {
    const float* const place = scores + row * kColumns + column;
    const Floats first = Exp(Load(place) - highest);
    Floats second = {};
    if (kPerWord<T> == 2 && row + 1 < keys.count) second = Exp(Load(place + kColumns) - highest);
    sum += first + second;
    StorePair<T>(PanelWord<T>(p, WordsOf<T>(keys.count), row, column), first, second);
  }
  Store(maximum + column, highest);
  Store(total + column, sum);
  return correction;
}

template <typename T>
void AttentionOf(const AttentionInputs& in, int64_t head, int64_t block, float* memory, T* out,
                 float* log_sum_exp) {
  const QueryBlock<T> queries(in, head, block);
  const int64_t head_dim = in.shape.head_dim;
  Scratch scratch(memory);
  uint32_t* const q = scratch.TakeWords(queries.words * kColumns);
  float* const scores = scratch.Take(kKeyBlock * kColumns);
  uint32_t* const p = scratch.TakeWords(WordsOf<T>(kKeyBlock) * kColumns);
  float* const result = scratch.Take(head_dim * kColumns);  // [head_dim, queries]
  float* const maximum = scratch.Take(kColumns);
  float* const total = scratch.Take(kColumns);

  PackTransposed(AsWords(queries.q), in.q_stride / kPerWord<T>, queries.count, queries.words,
                 kColumns, q);
  for (int64_t i = 0; i < head_dim * kColumns; ++i) result[i] = 0;
  for (int64_t i = 0; i < kColumns; ++i) {
    maximum[i] = -INFINITY;
    total[i] = 0;
  }
  ForKeyBlocks(in.shape, queries.visible(), [&](const KeyRange& keys, bool) {
    BlockProduct<T>(AsWords(queries.k + keys.begin * head_dim), queries.words, keys.count, q,
                    queries.words, kColumnPanels, scores, kColumns, /*add=*/false);
    for (int64_t column = 0; column < kColumns; column += kLanes) {
      const Floats correction = SoftmaxColumn<T>(scores, keys, keys.begin - queries.position,
                                                 in.shape.scale, column, maximum, total, p);
      for (int64_t i = 0; i < head_dim; ++i) {
        float* const place = result + i * kColumns + column;
        Store(place, Load(place) * correction);
      }
    }
    BlockProduct<T>(queries.transposed + keys.column / kPerWord<T>, queries.transposed_words,
                    head_dim, p, WordsOf<T>(keys.count), kColumnPanels, result, kColumns,
                    /*add=*/true);
  });
  T* const first = out + queries.OutOffset();
  for (int64_t column = 0; column < queries.count; ++column) {
    const float inverse = 1.0f / total[column];
    T* const token = first + column * queries.out_stride();
    for (int64_t i = 0; i < head_dim; ++i)
      Assign(token + i, result[i * kColumns + column] * inverse);
    log_sum_exp[head * in.shape.tokens + queries.begin + column] =
        maximum[column] + std::log(total[column]);
  }
}

void AttentionKernel(const AttentionInputs& in, int64_t head, int64_t block, float* scratch,
                     Array out, float* log_sum_exp) {
  if (out.type == Type::kBFloat16) {
    AttentionOf(in, head, block, scratch, static_cast<BFloat16*>(out.data), log_sum_exp);
  } else {
    AttentionOf(in, head, block, scratch, static_cast<float*>(out.data), log_sum_exp);
  }
}

template <typename T>
void TransposeOf(const AttentionShape& shape, const T* x, T* out) {
  const int64_t width = shape.padded_keys(), odd = shape.prefix % 2;
  for (int64_t i = 0; i < shape.head_dim; ++i) {
    T* const row = out + i * width;
    for (int64_t key = 0; key < shape.prefix; ++key) row[key] = x[key * shape.head_dim + i];
    if (odd != 0) row[shape.prefix] = T{};
    for (int64_t key = shape.prefix; key < shape.keys; ++key) {
      row[key + odd] = x[key * shape.head_dim + i];
    }
    for (int64_t key = shape.keys + odd; key < width; ++key) row[key] = T{};
  }
}

void TransposeKernel(const AttentionShape& shape, ConstArray x, Array out) {
  if (x.type == Type::kBFloat16) {
    TransposeOf(shape, static_cast<const BFloat16*>(x.data), static_cast<BFloat16*>(out.data));
  } else {
    TransposeOf(shape, static_cast<const float*>(x.data), static_cast<float*>(out.data));
  }
}

// ---- Gradient ---------------------------------------------------------------------------------

// Rows [0, count) of a [kColumns, head_dim] block as a product's right-hand side, kPerWord rows a
// word.
template <typename T>
void PackRows(const T* x, int64_t stride, int64_t count, int64_t head_dim, uint32_t* b) {
  constexpr int64_t kWords = kColumns / kPerWord<T>;
  for (int64_t word = 0; word < kWords; ++word) {
    for (int64_t i = 0; i < PaddedDim(head_dim); ++i) {
      T elements[kPerWord<T>] = {};
      for (int64_t j = 0; j < kPerWord<T>; ++j) {
        const int64_t row = word * kPerWord<T> + j;
        if (row < count && i < head_dim) elements[j] = x[row * stride + i];
      }
      b[(i / kPanel * kWords + word) * kPanel + i % kPanel] = Bits<uint32_t>(elements);
    }
  }
}

// From scores and dp = dout v^T of one column vector: ds as a right-hand side in `ds_panels`, and p
// and ds as left-hand sides in p_rows and ds_rows unless those are null.
template <typename T>
inline void SoftmaxGradientColumn(const float* scores, const float* dp, const KeyRange& keys,
                                  int64_t after, float scale, int64_t column,
                                  const float* log_sum_exp, const float* delta, uint32_t* ds_panels,
                                  T* p_rows, T* ds_rows) {
  const Floats offset = Load(log_sum_exp + column), mean = Load(delta + column);
  for (int64_t row = 0; row < keys.count; row += kPerWord<T>) {
    Floats ds[kPerWord<T>] = {};
    for (int64_t j = 0; j < kPerWord<T> && row + j < keys.count; ++j) {
      const int64_t place = (row + j) * kColumns + column;
      Floats p = Exp(Load(scores + place) * scale - offset);
      if (after + row + j > column) p = Sees(column, after + row + j) ? p : Floats{};
      ds[j] = p * (Load(dp + place) - mean) * scale;
      if (p_rows == nullptr) continue;
      Store(p_rows + place, p);
      Store(ds_rows + place, ds[j]);
    }
    StorePair<T>(PanelWord<T>(ds_panels, WordsOf<T>(keys.count), row, column), ds[0],
                 ds[kPerWord<T> - 1]);
  }
}

template <typename T>
void AttentionBackwardOf(const AttentionInputs& in, int64_t head, int64_t block, float* memory,
                         const AttentionGradients& gradients) {
  const QueryBlock<T> queries(in, head, block);
  const int64_t head_dim = in.shape.head_dim, padded_dim = PaddedDim(head_dim);
  const T* const dout = static_cast<const T*>(gradients.dout.data) + queries.OutOffset();
  const T* const out = static_cast<const T*>(gradients.out.data) + queries.OutOffset();
  Scratch scratch(memory);
  uint32_t* const q_columns = scratch.TakeWords(queries.words * kColumns);
  uint32_t* const dout_columns = scratch.TakeWords(queries.words * kColumns);
  uint32_t* const q_rows = scratch.TakeWords(WordsOf<T>(kColumns) * padded_dim);
  uint32_t* const dout_rows = scratch.TakeWords(WordsOf<T>(kColumns) * padded_dim);
  float* const scores = scratch.Take(kKeyBlock * kColumns);
  float* const dp = scratch.Take(kKeyBlock * kColumns);
  uint32_t* const ds_panels = scratch.TakeWords(WordsOf<T>(kKeyBlock) * kColumns);
  T* const p_rows = reinterpret_cast<T*>(scratch.TakeWords(kKeyBlock * WordsOf<T>(kColumns)));
  T* const ds_rows = reinterpret_cast<T*>(scratch.TakeWords(kKeyBlock * WordsOf<T>(kColumns)));
  float* const dq = scratch.Take(head_dim * kColumns);  // [head_dim, queries]
  float* const log_sum_exp = scratch.Take(kColumns);
  float* const delta = scratch.Take(kColumns);  // sum of dout * out, a query

  PackTransposed(AsWords(queries.q), in.q_stride / kPerWord<T>, queries.count, queries.words,
                 kColumns, q_columns);
  PackTransposed(AsWords(dout), queries.out_stride() / kPerWord<T>, queries.count, queries.words,
                 kColumns, dout_columns);
  PackRows(queries.q, in.q_stride, queries.count, head_dim, q_rows);
  PackRows(dout, queries.out_stride(), queries.count, head_dim, dout_rows);
  for (int64_t i = 0; i < head_dim * kColumns; ++i) dq[i] = 0;
  for (int64_t i = 0; i < kColumns; ++i) {
    const int64_t token = i * queries.out_stride();
    // Columns without a query get no probability.
    log_sum_exp[i] = i < queries.count
                         ? gradients.log_sum_exp[head * in.shape.tokens + queries.begin + i]
                         : INFINITY;
    delta[i] = i < queries.count ? Dot(dout + token, out + token, head_dim) : 0;
  }

  ForKeyBlocks(in.shape, queries.visible(), [&](const KeyRange& keys, bool prefix) {
    const int64_t first = keys.begin * head_dim;
    BlockProduct<T>(AsWords(queries.k + first), queries.words, keys.count, q_columns, queries.words,
                    kColumnPanels, scores, kColumns, /*add=*/false);
    BlockProduct<T>(AsWords(queries.v + first), queries.words, keys.count, dout_columns,
                    queries.words, kColumnPanels, dp, kColumns, /*add=*/false);
    for (int64_t column = 0; column < kColumns; column += kLanes) {
      SoftmaxGradientColumn<T>(scores, dp, keys, keys.begin - queries.position, in.shape.scale,
                               column, log_sum_exp, delta, ds_panels, prefix ? nullptr : p_rows,
                               ds_rows);
    }
    BlockProduct<T>(queries.transposed + keys.column / kPerWord<T>, queries.transposed_words,
                    head_dim, ds_panels, WordsOf<T>(keys.count), kColumnPanels, dq, kColumns,
                    /*add=*/true);
    if (prefix) return;
    const int64_t own = (keys.begin - in.shape.prefix) * padded_dim;
    const int64_t words = WordsOf<T>(kColumns), panels = padded_dim / kPanel;
    BlockProduct<T>(AsWords(ds_rows), words, keys.count, q_rows, words, panels, gradients.dk + own,
                    padded_dim, /*add=*/true);
    BlockProduct<T>(AsWords(p_rows), words, keys.count, dout_rows, words, panels,
                    gradients.dv + own, padded_dim, /*add=*/true);
  });
  T* const dq_out =
      static_cast<T*>(gradients.dq.data) + queries.begin * gradients.dq_stride + head * head_dim;
  for (int64_t column = 0; column < queries.count; ++column) {
    for (int64_t i = 0; i < head_dim; ++i) {
      Assign(dq_out + column * gradients.dq_stride + i, dq[i * kColumns + column]);
    }
  }
}

void AttentionBackwardKernel(const AttentionInputs& in, int64_t head, int64_t block, float* scratch,
                             const AttentionGradients& gradients) {
  if (in.q.type == Type::kBFloat16) {
    AttentionBackwardOf<BFloat16>(in, head, block, scratch, gradients);
  } else {
    AttentionBackwardOf<float>(in, head, block, scratch, gradients);
  }
}

// Of the gradient with fp32 elements, which needs the most.
int64_t AttentionScratch(int64_t head_dim) {
  return kColumns * (3 * head_dim + 2 * PaddedDim(head_dim) + 5 * kKeyBlock + 2);
}

// ---- One query --------------------------------------------------------------------------------

// scores[s] = scale * q . k[s]; a register of keys at a time, then one by one.
template <typename Q, typename K>
void AttendScores(const Q* q, const K* k, int64_t keys, int64_t head_dim, float scale,
                  float* scores) {
  int64_t s = 0;
  for (; s + kLanes <= keys; s += kLanes) {
    Floats sums[kLanes];
    for (int64_t i = 0; i < kLanes; ++i) {
      const K* const key = k + (s + i) * head_dim;
      AskAhead(key);
      AskAhead(key + head_dim / 2);
      sums[i] = DotLanes(q, key, head_dim);
    }
    float totals[kLanes];
    Sums<static_cast<int>(kLanes)>(sums, totals);
    for (int64_t i = 0; i < kLanes; ++i) {
      totals[i] = AddDotRest(totals[i], q, k + (s + i) * head_dim, head_dim) * scale;
    }
    std::memcpy(scores + s, totals, sizeof(totals));
  }
  for (; s < keys; ++s) scores[s] = Dot(q, k + s * head_dim, head_dim) * scale;
}

// Turns scores into exp(score - highest) and returns their sum.
inline float AttendSoftmax(float* scores, int64_t keys) {
  const float best = Greatest(scores, keys);
  Floats sum = {};
  float rest = 0;
  ForLanes(keys, [&](auto lanes, int64_t i) {
    const Floats p = Exp(lanes.Get(scores + i) - best);
    lanes.Put(scores + i, p);
    if constexpr (std::is_same_v<decltype(lanes), WholeLanes>) {
      sum += p;
    } else {
      rest += p[0];
    }
  });
  return Sum(sum) + rest;
}

// out[h] = sum over keys of p[h][key] * v[key], times inverse[h], for kHeads heads that share v;
// elements [i, i + kVectors * kLanes) of a head.
template <int kHeads, int kVectors, typename V, typename Out>
inline void AttendValues(const float* p, const V* v, int64_t keys, int64_t head_dim, int64_t i,
                         const float* inverse, Out* out) {
  Floats sum[kHeads][kVectors] = {};
  for (int64_t key = 0; key < keys; ++key) {
    for (int j = 0; j < kVectors; ++j) {
      const V* const place = v + key * head_dim + i + j * kLanes;
      AskAhead(place);
      const Floats value = Load(place);
      for (int h = 0; h < kHeads; ++h) sum[h][j] += value * p[h * keys + key];
    }
  }
  for (int h = 0; h < kHeads; ++h) {
    for (int j = 0; j < kVectors; ++j) {
      Store(out + h * head_dim + i + j * kLanes, sum[h][j] * inverse[h]);
    }
  }
}

template <int kHeads, typename V, typename Out>
void AttendHeads(const float* p, const V* v, int64_t keys, int64_t head_dim, const float* inverse,
                 Out* out) {
  int64_t i = 0;
  for (; i + 4 * kLanes <= head_dim; i += 4 * kLanes) {
    AttendValues<kHeads, 4>(p, v, keys, head_dim, i, inverse, out);
  }
  for (; i + kLanes <= head_dim; i += kLanes) {
    AttendValues<kHeads, 1>(p, v, keys, head_dim, i, inverse, out);
  }
  for (; i < head_dim; ++i) {
    for (int h = 0; h < kHeads; ++h) {
      float sum = 0;
      for (int64_t key = 0; key < keys; ++key)
        sum += Value(v[key * head_dim + i]) * p[h * keys + key];
      Assign(out + h * head_dim + i, sum * inverse[h]);
    }
  }
}

// Heads that take their values together; a larger group takes turns.
constexpr int64_t kHeadsAtOnce = 4;

template <typename Q, typename K>
void AttendOf(const Q* q, int64_t group, const K* k, const K* v, int64_t keys, int64_t head_dim,
              float scale, float* scores, Q* out) {
  for (int64_t g = 0; g < group; g += kHeadsAtOnce) {
    const int64_t heads = group - g < kHeadsAtOnce ? group - g : kHeadsAtOnce;
    float inverse[kHeadsAtOnce];
    for (int64_t h = 0; h < heads; ++h) {
      AttendScores(q + (g + h) * head_dim, k, keys, head_dim, scale, scores + (g + h) * keys);
      inverse[h] = 1.0f / AttendSoftmax(scores + (g + h) * keys, keys);
    }
    const float* const p = scores + g * keys;
    Q* const to = out + g * head_dim;
    if (heads == 4) AttendHeads<4>(p, v, keys, head_dim, inverse, to);
    if (heads == 3) AttendHeads<3>(p, v, keys, head_dim, inverse, to);
    if (heads == 2) AttendHeads<2>(p, v, keys, head_dim, inverse, to);
    if (heads == 1) AttendHeads<1>(p, v, keys, head_dim, inverse, to);
  }
}

void AttendKernel(ConstArray q, int64_t group, ConstArray k, ConstArray v, int64_t keys,
                  int64_t head_dim, float scale, float* scores, Array out) {
  const auto run = [&](const auto* key, auto* result) {
    using Q = std::remove_pointer_t<decltype(result)>;
    AttendOf(static_cast<const Q*>(q.data), group, key, static_cast<decltype(key)>(v.data), keys,
             head_dim, scale, scores, result);
  };
  WithType(k, [&](const auto* key) {
    if constexpr (sizeof(*key) == 2) {
      if (q.type == Type::kBFloat16) {
        run(key, static_cast<BFloat16*>(out.data));
        return;
      }
    }
    run(key, static_cast<float*>(out.data));
  });
}

}  // namespace
}  // namespace mayfly::cpu
