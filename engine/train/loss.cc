#include "engine/train/loss.h"

#include <algorithm>

#include <ATen/Parallel.h>

#include "engine/model/layers/cpu_ops.h"
#include "engine/pool/memory_plan.h"

namespace mayfly {
namespace {

// Calls `visit(begin, count)` for each block of [0, n).
template <typename Visit>
void ForBlocks(int64_t n, Visit&& visit) {
  for (int64_t begin = 0; begin < n; begin += kLogitBlockTokens) {
    visit(begin, std::min(kLogitBlockTokens, n - begin));
  }
}

// One block's logits, and what the loss needs of them.
struct BlockLogits {
  at::Tensor logits;         // [count, vocabulary]
  at::Tensor log_sum_exp;    // [count, 1] fp32
  at::Tensor label_logprob;  // [count] fp32
};

BlockLogits Evaluate(const CausalLm& model, const at::Tensor& hidden, const at::Tensor& labels) {
  BlockLogits block;
  block.logits = model.Logits(hidden);
  if (const cpu::Kernels* const kernels = model.numerics().kernels; kernels != nullptr) {
    const int64_t vocabulary = block.logits.size(1);
    block.log_sum_exp = at::empty({hidden.size(0), 1}, at::kFloat);
    float* const log_sum_exp = block.log_sum_exp.mutable_data_ptr<float>();
    at::parallel_for(0, hidden.size(0), 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        log_sum_exp[row] =
            kernels->log_sum_exp(CpuArray(block.logits, row * vocabulary), vocabulary);
      }
    });
  } else {
    block.log_sum_exp = block.logits.to(at::kFloat).logsumexp(1, /*keepdim=*/true);
  }
  block.label_logprob =
      block.logits.gather(1, labels.unsqueeze(1)).to(at::kFloat).sub_(block.log_sum_exp).squeeze(1);
  return block;
}

// d (sum of share * nll) / d logits, in the place of the logits where kernels do it; matrix type.
at::Tensor LogitsGradient(const CausalLm& model, const BlockLogits& block, const at::Tensor& labels,
                          const at::Tensor& share) {
  const Numerics& numerics = model.numerics();
  const int64_t count = labels.size(0), vocabulary = block.logits.size(1);
  if (numerics.kernels != nullptr) {
    const int64_t* const label = labels.const_data_ptr<int64_t>();
    const float* const weight = share.const_data_ptr<float>();
    const float* const log_sum_exp = block.log_sum_exp.const_data_ptr<float>();
    at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        numerics.kernels->cross_entropy_backward(CpuArray(block.logits, row * vocabulary),
                                                 vocabulary, log_sum_exp[row], label[row],
                                                 weight[row]);
      }
    });
    return block.logits.to(numerics.matrix);
  }
  // d nll / d logits = softmax(logits) - onehot(label)
  at::Tensor dlogits = block.logits.to(at::kFloat).sub(block.log_sum_exp).exp_();
  dlogits.scatter_add_(1, labels.unsqueeze(1), at::full({count, 1}, -1.0, dlogits.options()));
  return dlogits.mul_(share.unsqueeze(1)).to(numerics.matrix);
}

}  // namespace

LossResult WeightedLoss(const CausalLm& model, const at::Tensor& hidden, const at::Tensor& labels,
                        const at::Tensor& weights, bool need_gradient) {
  LossResult result;
  if (need_gradient) result.dhidden = at::empty_like(hidden);
  const at::Tensor share = weights / weights.sum();
  ForBlocks(hidden.size(0), [&](int64_t begin, int64_t count) {
    const at::Tensor block_labels = labels.narrow(0, begin, count);
    const at::Tensor block_share = share.narrow(0, begin, count);
    const BlockLogits block = Evaluate(model, hidden.narrow(0, begin, count), block_labels);
    result.loss -= block.label_logprob.dot(block_share).item<double>();
    if (!need_gradient) return;
    result.dhidden.narrow(0, begin, count)
        .copy_(model.LogitsBackward(LogitsGradient(model, block, block_labels, block_share)));
  });
  return result;
}

std::vector<float> LabelLogprobs(const CausalLm& model, const at::Tensor& hidden,
                                 const at::Tensor& labels) {
  at::Tensor logprobs = at::empty({hidden.size(0)}, at::TensorOptions().dtype(at::kFloat));
  ForBlocks(hidden.size(0), [&](int64_t begin, int64_t count) {
    logprobs.narrow(0, begin, count)
        .copy_(Evaluate(model, hidden.narrow(0, begin, count), labels.narrow(0, begin, count))
                   .label_logprob);
  });
  const float* const data = logprobs.const_data_ptr<float>();
  return {data, data + logprobs.numel()};
}

}  // namespace mayfly
