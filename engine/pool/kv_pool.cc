#include "engine/pool/kv_pool.h"

namespace mayfly {

KvPool::KvPool(const ModelConfig& model, const Numerics& numerics, int32_t rows,
               int32_t window_tokens, bool keep_inputs)
    : keys_(at::zeros({rows + 1, model.layers, model.kv_heads, window_tokens, model.head_dim},
                      numerics.WeightOptions())),
      values_(at::zeros_like(keys_)) {
  if (keep_inputs) {
    inputs_ = at::zeros({rows + 1, window_tokens, model.hidden}, numerics.ActivationOptions());
  }
}

void KvPool::CopyLower(int64_t from, int64_t to, int64_t begin, int64_t end, int32_t layers) {
  const auto part = [&](const at::Tensor& pool, int64_t row) {
    return pool[row].narrow(0, 0, layers).narrow(2, begin, end - begin);
  };
  part(keys_, to).copy_(part(keys_, from));
  part(values_, to).copy_(part(values_, from));
  inputs_[to].narrow(0, begin, end - begin).copy_(inputs_[from].narrow(0, begin, end - begin));
}

void KvPool::Zero(int64_t row, int64_t tokens) {
  keys_[row].narrow(2, 0, tokens).zero_();
  values_[row].narrow(2, 0, tokens).zero_();
  if (keeps_inputs()) inputs_[row].narrow(0, 0, tokens).zero_();
}

bool KvPool::IsZero(int64_t row) const {
  const auto zero = [row](const at::Tensor& pool) { return !pool[row].any().item<bool>(); };
  return zero(keys_) && zero(values_) && (!keeps_inputs() || zero(inputs_));
}

}  // namespace mayfly
