#pragma once

// Next-token loss from hidden states, block by block: a [tokens, vocabulary] tensor never exists.
// Pure functions; any thread.

#include <cstdint>
#include <vector>

#include <ATen/ATen.h>

#include "engine/model/causal_lm.h"

namespace mayfly {

struct LossResult {
  // sum(weight * nll) / sum(weight), nats.
  double loss = 0;
  // d loss / d hidden: [n, hidden], matrix type; undefined unless asked for.
  at::Tensor dhidden;
};

// hidden: [n, hidden], normed, matrix type; labels: [n] int64; weights: [n] fp32 whose sum is above
// zero.
LossResult WeightedLoss(const CausalLm& model, const at::Tensor& hidden, const at::Tensor& labels,
                        const at::Tensor& weights, bool need_gradient);

// log p(label) for each hidden state, nats. hidden: [n, hidden]; labels: [n] int64.
std::vector<float> LabelLogprobs(const CausalLm& model, const at::Tensor& hidden,
                                 const at::Tensor& labels);

}  // namespace mayfly
