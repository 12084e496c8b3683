#include "engine/pool/kv_pool.h"

namespace mayfly {

KvPool::KvPool(const ModelConfig& model, const Numerics& numerics, int32_t rows,
               int32_t window_tokens)
    : keys_(at::zeros({rows + 1, model.layers, model.kv_heads, window_tokens, model.head_dim},
                      numerics.WeightOptions())),
      values_(at::zeros_like(keys_)) {}

void KvPool::Zero(int64_t row, int64_t tokens) {
  keys_[row].narrow(2, 0, tokens).zero_();
  values_[row].narrow(2, 0, tokens).zero_();
}

bool KvPool::IsZero(int64_t row) const {
  return !keys_[row].any().item<bool>() && !values_[row].any().item<bool>();
}

}  // namespace mayfly
