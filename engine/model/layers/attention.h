#pragma once

// Causal attention with grouped query heads (Ainslie et al., arXiv 2305.13245) over a linear run of
// keys, and its gradient. Pure functions; any thread.
//
// The query heads that share a key head are laid along the query axis, so keys and values are never
// repeated and their gradients come out summed. Queries are taken in blocks, so that a block meets
// only the keys before its end and no [tokens, keys] matrix is ever whole.

#include <vector>

#include <ATen/ATen.h>

#include "engine/device/numerics.h"

namespace mayfly {

// What the gradient needs of a forward pass: one element a query block.
struct AttentionTrace {
  std::vector<at::Tensor> outs;
  std::vector<at::Tensor> log_sum_exps;
};

// q: [tokens, heads, head_dim], the newest `tokens` positions, activations.
// k, v: [kv_heads, keys, head_dim] with keys >= tokens, any type.
// Returns [tokens, heads * head_dim], activations. Fills `trace` unless it is null.
at::Tensor CausalAttention(const Numerics& numerics, const at::Tensor& q, const at::Tensor& k,
                           const at::Tensor& v, AttentionTrace* trace);

struct AttentionGradient {
  at::Tensor dq;  // [tokens, heads, head_dim], activations
  at::Tensor dk;  // [kv_heads, tokens, head_dim], activations: the newest `tokens` keys only
  at::Tensor dv;
};

// dout: [tokens, heads * head_dim]. q, k, v: as in the forward pass that filled `trace`.
AttentionGradient CausalAttentionBackward(const Numerics& numerics, const at::Tensor& dout,
                                          const at::Tensor& q, const at::Tensor& k,
                                          const at::Tensor& v, const AttentionTrace& trace);

}  // namespace mayfly
