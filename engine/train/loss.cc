#include "engine/train/loss.h"

#include <algorithm>

namespace mayfly {
namespace {

// 128 tokens of a 50,000-token vocabulary are 25 MB of fp32 logits: large enough for efficient products.
constexpr int64_t kBlockTokens = 128;

// Calls `visit(begin, count)` for each block of [0, n).
template <typename Visit>
void ForBlocks(int64_t n, Visit&& visit) {
  for (int64_t begin = 0; begin < n; begin += kBlockTokens) {
    visit(begin, std::min(kBlockTokens, n - begin));
  }
}

struct BlockLogits {
  at::Tensor logits;         // [count, vocabulary] fp32
  at::Tensor log_sum_exp;    // [count, 1]
  at::Tensor label_logprob;  // [count]
};

BlockLogits Evaluate(const CausalLm& model, const at::Tensor& hidden, const at::Tensor& labels) {
  BlockLogits block;
  block.logits = model.Logits(hidden).to(at::kFloat);
  block.log_sum_exp = block.logits.logsumexp(1, /*keepdim=*/true);
  block.label_logprob = block.logits.gather(1, labels.unsqueeze(1)).sub_(block.log_sum_exp).squeeze(1);
  return block;
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
    BlockLogits block = Evaluate(model, hidden.narrow(0, begin, count), block_labels);
    result.loss -= block.label_logprob.dot(block_share).item<double>();
    if (!need_gradient) return;
    // d nll / d logits = softmax(logits) - onehot(label)
    at::Tensor dlogits = block.logits.sub_(block.log_sum_exp).exp_();
    dlogits.scatter_add_(1, block_labels.unsqueeze(1),
                         at::full({count, 1}, -1.0, dlogits.options()));
    dlogits.mul_(block_share.unsqueeze(1));
    result.dhidden.narrow(0, begin, count)
        .copy_(model.LogitsBackward(dlogits.to(hidden.scalar_type())));
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
