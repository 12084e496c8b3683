#pragma once

// The engine's own kernels for a CPU: the products of a decode step, causal attention with its
// gradient, and the elementwise work between matrix products (docs/decisions.md says what each was
// measured against). Each works on a range of its output, so that the caller decides how to share
// it among threads. No tensors here: these files are compiled once per instruction set, and nothing
// that is also compiled elsewhere may be included.
//
// Matrices are row-major. An element's value depends on its inputs alone, never on the range, on
// other rows, or on how many rows there are. Sums are fp32. Pure functions; any thread.

#include <cstdint>

namespace mayfly::cpu {

enum class Type { kFloat32, kBFloat16 };

struct ConstArray {
  const void* data = nullptr;
  Type type = Type::kFloat32;
};
struct Array {
  void* data = nullptr;
  Type type = Type::kFloat32;

  operator ConstArray() const { return {data, type}; }
};

// Query rows that one attention task works on, and the keys that it meets at a time.
inline constexpr int64_t kQueryBlock = 64;
inline constexpr int64_t kKeyBlock = 192;

// Causal attention of one layer and row: `tokens` queries are the newest of `keys` positions. Query
// heads [g * group, (g + 1) * group) share key head g, where group = heads / kv_heads. q, k and v
// have the same type. Strides count elements; an element of a head is the next one's neighbour.
struct AttentionShape {
  int64_t tokens = 0;
  int64_t keys = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;  // even
  float scale = 1;
  // Of the gradient only: the first `prefix` keys are constants.
  int64_t prefix = 0;

  int64_t query_blocks() const { return (tokens + kQueryBlock - 1) / kQueryBlock; }
  // Keys of the transposed copies (see Kernels::transpose): the prefix is padded to an even count.
  int64_t padded_keys() const { return (prefix + 1) / 2 * 2 + (keys - prefix + 1) / 2 * 2; }
};

struct AttentionInputs {
  AttentionShape shape;
  ConstArray q;  // [tokens, heads, head_dim], tokens q_stride apart
  int64_t q_stride = 0;
  ConstArray k;  // [kv_heads, keys, head_dim], heads kv_stride apart
  ConstArray v;
  int64_t kv_stride = 0;
  // Made by Kernels::transpose, [kv_heads, head_dim, padded_keys]; the forward pass reads v's
  // alone, the gradient k's alone.
  ConstArray transposed;
};

struct AttentionGradients {
  ConstArray out;                      // [tokens, heads * head_dim], of the forward pass
  ConstArray dout;                     // the same shape
  const float* log_sum_exp = nullptr;  // [heads, tokens]
  Array dq;                            // [tokens, heads, head_dim], tokens dq_stride apart
  int64_t dq_stride = 0;
  // [keys - prefix, head_dim] each, added to: the caller sums over the group and over the tasks.
  float* dk = nullptr;
  float* dv = nullptr;
};

struct Kernels {
  const char* name;
  // Whether products of bfloat16 numbers are one instruction.
  bool bfloat16_products;

  // y[m][n] = sum over k of x[m][k] * w[n][k] (+ bias[n]) for n in [begin, end).
  // x: [rows, in]; w: [>= end, in], bfloat16 if x is; y: [rows, y_stride], fp32 or as x; bias may
  // be null.
  void (*linear)(ConstArray x, int64_t rows, int64_t in, ConstArray w, const float* bias,
                 int64_t begin, int64_t end, Array y, int64_t y_stride);

  // y[n] += scale * sum over r of a[r] * b[r][n] for n in [begin, end).
  // a: [rank] fp32; b: [rank, width].
  void (*expand)(const float* a, int64_t rank, ConstArray b, int64_t width, float scale,
                 int64_t begin, int64_t end, Array y);

  // y = x * rsqrt(mean(x^2) + eps) * weight for `rows` rows, x_stride and y_stride apart. weight:
  // [width].
  void (*rms_norm)(ConstArray x, int64_t x_stride, const float* weight, double eps, int64_t rows,
                   int64_t width, Array y, int64_t y_stride);
  // The gradient with respect to x. dy, dx: [rows, width] dense; x as above.
  void (*rms_norm_backward)(ConstArray x, int64_t x_stride, const float* weight, double eps,
                            int64_t rows, int64_t width, ConstArray dy, Array dx);

  // y = silu(gate) * up. gate_up: [rows, 2 * width], the gate first; y: [rows, width], of the same
  // type.
  void (*silu_mul)(ConstArray gate_up, int64_t rows, int64_t width, Array y);
  // The gradient with respect to gate_up. dy: [rows, width]; all of one type.
  void (*silu_mul_backward)(ConstArray gate_up, ConstArray dy, int64_t rows, int64_t width,
                            Array dgate_up);

  // Rotates `heads` heads of one token in place by the angles whose cosines and sines are given,
  // [head_dim / 2] each; `direction` -1 rotates back.
  void (*rotate)(Array x, int64_t heads, int64_t head_dim, const float* cos, const float* sin,
                 float direction);

  // sum = x + y, [count]; sum may be x.
  void (*add)(const float* x, ConstArray y, int64_t count, float* sum);
  // to = from, [count], rounded where the types ask for it.
  void (*copy)(ConstArray from, int64_t count, Array to);

  // The log of the sum of exp(x), [count].
  float (*log_sum_exp)(ConstArray x, int64_t count);
  // weights = exp((logits - max(logits)) * scale), [count]: 1 for the greatest.
  void (*softmax_weights)(const float* logits, int64_t count, float scale, float* weights);
  // The gradient of weight * -log p(label) with respect to the logits x, in their place.
  void (*cross_entropy_backward)(Array x, int64_t count, float log_sum_exp, int64_t label,
                                 float weight);

  // One query token of one key head: `group` query heads over `keys` positions. q, out: [group,
  // head_dim]; k, v: [keys, head_dim], bfloat16 if q is; out: as q; scores: scratch [group, keys].
  void (*attend)(ConstArray q, int64_t group, ConstArray k, ConstArray v, int64_t keys,
                 int64_t head_dim, float scale, float* scores, Array out);

  // Lays one key head of keys (or values) out as attention reads it a second time: [head_dim,
  // padded_keys], the padding zero. x: [keys, head_dim] of out's type.
  void (*transpose)(const AttentionShape& shape, ConstArray x, Array out);
  // One head, queries [block * kQueryBlock, ...). out: [tokens, heads * head_dim] of q's type;
  // log_sum_exp: [heads, tokens]. scratch: attention_scratch floats.
  void (*attention)(const AttentionInputs& in, int64_t head, int64_t block, float* scratch,
                    Array out, float* log_sum_exp);
  // The same block's gradient. dk, dv are the head's.
  void (*attention_backward)(const AttentionInputs& in, int64_t head, int64_t block, float* scratch,
                             const AttentionGradients& gradients);
  // Floats of scratch that one task of either needs.
  int64_t (*attention_scratch)(int64_t head_dim);
};

// The fastest set that this machine can run.
const Kernels& BestKernels();

// One a supported instruction set, slowest first: what the tests compare.
struct KernelList {
  const Kernels* const* data;
  int64_t count;
};
KernelList SupportedKernels();

}  // namespace mayfly::cpu
