#include "engine/runtime/model_runner.h"

#include <utility>

#include <ATen/Parallel.h>

#include "engine/model/layers/cpu_ops.h"
#include "engine/model/layers/linear.h"
#include "engine/train/loss.h"

namespace mayfly {
namespace {

// Row by row where there are kernels: a sum's order must not depend on how many rows there are.
at::Tensor LogSumExp(const CausalLm& model, const at::Tensor& logits) {
  const cpu::Kernels* const kernels = model.numerics().kernels;
  if (kernels == nullptr) return logits.logsumexp(1);
  at::Tensor log_sum_exp = at::empty({logits.size(0)}, at::kFloat);
  float* const data = log_sum_exp.mutable_data_ptr<float>();
  const int64_t vocabulary = logits.size(1);
  at::parallel_for(0, logits.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      data[row] = kernels->log_sum_exp(CpuArray(logits, row * vocabulary), vocabulary);
    }
  });
  return log_sum_exp;
}

// The logits of every slice that wants them, in one product.
void FillLogits(const CausalLm& model, const at::Tensor& hidden,
                const std::vector<int64_t>& positions, const std::vector<RunOutput*>& outputs) {
  if (outputs.empty()) return;
  const at::Tensor index = at::tensor(positions, at::kLong).to(hidden.device());
  const at::Tensor logits = model.Logits(hidden.index_select(0, index)).to(at::kFloat).cpu();
  const at::Tensor log_sum_exp = LogSumExp(model, logits);
  for (size_t i = 0; i < outputs.size(); ++i) {
    const int64_t row = static_cast<int64_t>(i);
    outputs[i]->logits = logits[row];
    outputs[i]->log_sum_exp = log_sum_exp.const_data_ptr<float>()[i];
  }
}

// The step as one token a row; empty if it is not that, or if inputs are to be kept on the way.
std::vector<DecodeToken> DecodeTokens(const std::vector<RunSlice>& slices) {
  std::vector<DecodeToken> tokens;
  for (const RunSlice& slice : slices) {
    if (slice.tokens.size() != 1 || !slice.want_logits || !slice.targets.empty()) return {};
    if (slice.first_layer > 0) return {};
    tokens.push_back({slice.tokens[0], slice.row, slice.row_begin, slice.adapter});
  }
  return tokens;
}

std::vector<RunOutput> Outputs(const DecodeOutput& step) {
  std::vector<RunOutput> outputs(static_cast<size_t>(step.logits.size(0)));
  for (size_t i = 0; i < outputs.size(); ++i) {
    outputs[i].logits = step.logits[static_cast<int64_t>(i)];
    outputs[i].log_sum_exp = step.log_sum_exp.const_data_ptr<float>()[i];
  }
  return outputs;
}

}  // namespace

std::vector<RunOutput> ModelRunner::Run(const std::vector<RunSlice>& slices) const {
  if (model_->numerics().ops != nullptr && !separate_) {
    const std::vector<DecodeToken> decode = DecodeTokens(slices);
    if (DecodeRunner::Takes(decode)) return Outputs(decode_->Run(decode));
  }
  std::vector<RunOutput> outputs(slices.size());
  for (const std::vector<size_t>& pass : Passes(slices)) RunTogether(slices, pass, &outputs);
  return outputs;
}

std::vector<std::vector<size_t>> ModelRunner::Passes(const std::vector<RunSlice>& slices) const {
  std::vector<std::vector<size_t>> passes;
  std::vector<size_t> shared;
  const auto end_shared = [&] {
    if (!shared.empty()) passes.push_back(std::exchange(shared, {}));
  };
  for (size_t i = 0; i < slices.size(); ++i) {
    const bool alone = slices[i].resumes || (separate_ && slices[i].tokens.size() > 1);
    if (alone) {
      passes.push_back({i});
    } else {
      shared.push_back(i);
      if (separate_ && shared.size() == kFewRows) end_shared();
    }
  }
  end_shared();
  return passes;
}

void ModelRunner::RunTogether(const std::vector<RunSlice>& slices, const std::vector<size_t>& pass,
                              std::vector<RunOutput>* outputs) const {
  std::vector<TokenId> tokens;
  std::vector<ForwardSegment> segments;
  for (const size_t i : pass) {
    const RunSlice& slice = slices[i];
    tokens.insert(tokens.end(), slice.tokens.begin(), slice.tokens.end());
    segments.push_back({slice.row, slice.row_begin, static_cast<int64_t>(slice.tokens.size()),
                        slice.adapter, slice.first_layer, slice.resumes});
  }
  const at::Device device = kv_->Keys(0, 0).device();
  const at::Tensor hidden = model_->Forward(TokenTensor(tokens, device), segments, *kv_);

  std::vector<int64_t> logit_positions;
  std::vector<RunOutput*> logit_outputs;
  int64_t end = 0;
  for (const size_t i : pass) {
    const RunSlice& slice = slices[i];
    RunOutput& output = (*outputs)[i];
    end += static_cast<int64_t>(slice.tokens.size());
    if (slice.want_logits) {
      logit_positions.push_back(end - 1);
      logit_outputs.push_back(&output);
    }
    const int64_t targets = static_cast<int64_t>(slice.targets.size());
    if (targets == 0) continue;
    output.logprobs = LabelLogprobs(*model_, hidden.narrow(0, end - targets, targets),
                                    TokenTensor(slice.targets, device));
  }
  FillLogits(*model_, hidden, logit_positions, logit_outputs);
}

}  // namespace mayfly
