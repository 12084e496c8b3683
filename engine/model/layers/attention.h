#pragma once

// Causal attention with grouped query heads (Ainslie et al., arXiv 2305.13245) over a linear run of
// keys, and its gradient. Pure functions; any thread.

#include <vector>

#include <ATen/ATen.h>

#include "engine/device/numerics.h"

namespace mayfly {

// Of one row.
struct AttentionInput {
  at::Tensor
      q;  // [tokens, heads, head_dim], the newest positions, matrix type, dense within a token
  at::Tensor k;  // [kv_heads, keys, head_dim] with keys >= tokens, weights' type, each head dense
  at::Tensor v;
};

// One row's part of a batch: tokens [batch_begin, batch_begin + tokens) of the batch are positions
// [row_begin, ...) of the row.
struct AttentionSegment {
  int64_t batch_begin = 0;
  int64_t tokens = 0;
  int64_t row = 0;
  int64_t row_begin = 0;
};

// Each segment attends to its row, up to each token's own position. q: [tokens, heads, head_dim],
// matrix type, dense within a token; keys, values: [rows, kv_heads, window, head_dim], weights'
// type; out: [tokens, heads * head_dim], matrix type, dense.
void CausalAttention(const Numerics& numerics, const at::Tensor& q, const at::Tensor& keys,
                     const at::Tensor& values, const std::vector<AttentionSegment>& segments,
                     const at::Tensor& out);

// One token of each of some rows. q: [n, heads, head_dim]; keys, values: [rows, kv_heads, window,
// head_dim], weights' type, of which token i attends to the first positions[i] + 1 of rows[i];
// rows, positions: [n] int64 -> [n, heads * head_dim], in q's type. Reads whole windows, so that
// no shape depends on a position.
at::Tensor DecodeAttention(const at::Tensor& q, const at::Tensor& rows, const at::Tensor& positions,
                           const at::Tensor& keys, const at::Tensor& values);

// CausalAttention of one row, returning what the gradient needs beside the result: the log-sum-exp
// of the scores, [heads, tokens] fp32.
at::Tensor CausalAttentionForTraining(const Numerics& numerics, const AttentionInput& input,
                                      const at::Tensor& out);

// What the forward pass of one row gave; out: [tokens, heads * head_dim], dense.
struct AttentionTrace {
  at::Tensor out;
  at::Tensor log_sum_exp;
};

// Where gradients go, matrix type, dense within a token.
struct AttentionGradient {
  at::Tensor dq;  // [tokens, heads, head_dim]
  at::Tensor dk;  // [tokens, kv_heads, head_dim]: the newest `tokens` keys only
  at::Tensor dv;
};

// dout: as trace.out. The gradient with respect to keys before the newest `tokens` is not computed.
void CausalAttentionBackward(const Numerics& numerics, const AttentionInput& input,
                             const AttentionTrace& trace, const at::Tensor& dout,
                             const AttentionGradient& gradient);

}  // namespace mayfly
