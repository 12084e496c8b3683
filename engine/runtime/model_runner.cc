#include "engine/runtime/model_runner.h"

#include "engine/train/loss.h"

namespace mayfly {
namespace {

at::Tensor TokenTensor(std::span<const TokenId> tokens, at::Device device) {
  return at::tensor(at::ArrayRef<TokenId>(tokens.data(), tokens.size()), at::kInt)
      .to(at::kLong)
      .to(device);
}

// The logits of every slice that wants them, in one product.
void FillLogits(const CausalLm& model, const at::Tensor& hidden,
                const std::vector<int64_t>& positions, const std::vector<RunOutput*>& outputs) {
  if (outputs.empty()) return;
  const at::Tensor index = at::tensor(positions, at::kLong).to(hidden.device());
  const at::Tensor logits = model.Logits(hidden.index_select(0, index)).to(at::kFloat).cpu();
  const at::Tensor log_sum_exp = logits.logsumexp(1);
  for (size_t i = 0; i < outputs.size(); ++i) {
    const int64_t row = static_cast<int64_t>(i);
    outputs[i]->logits = logits[row];
    outputs[i]->log_sum_exp = log_sum_exp.const_data_ptr<float>()[i];
  }
}

}  // namespace

std::vector<RunOutput> ModelRunner::Run(const std::vector<RunSlice>& slices) const {
  std::vector<TokenId> tokens;
  std::vector<ForwardSegment> segments;
  for (const RunSlice& slice : slices) {
    tokens.insert(tokens.end(), slice.tokens.begin(), slice.tokens.end());
    segments.push_back(
        {slice.row, slice.row_begin, static_cast<int64_t>(slice.tokens.size()), slice.adapter});
  }
  const at::Device device = kv_->Keys(0, 0).device();
  const at::Tensor hidden = model_->Forward(TokenTensor(tokens, device), segments, *kv_);

  std::vector<RunOutput> outputs(slices.size());
  std::vector<int64_t> logit_positions;
  std::vector<RunOutput*> logit_outputs;
  int64_t end = 0;
  for (size_t i = 0; i < slices.size(); ++i) {
    end += segments[i].tokens;
    if (slices[i].want_logits) {
      logit_positions.push_back(end - 1);
      logit_outputs.push_back(&outputs[i]);
    }
    const int64_t targets = static_cast<int64_t>(slices[i].targets.size());
    if (targets == 0) continue;
    outputs[i].logprobs = LabelLogprobs(*model_, hidden.narrow(0, end - targets, targets),
                                        TokenTensor(slices[i].targets, device));
  }
  FillLogits(*model_, hidden, logit_positions, logit_outputs);
  return outputs;
}

}  // namespace mayfly
