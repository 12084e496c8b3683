#pragma once

// Keys and values of every row, allocated once. One row more than there are slots serves the frozen
// base model's comparisons. Owned by the engine loop; a training pass reads a row while the loop
// leaves that row alone.

#include <cstdint>

#include <ATen/ATen.h>

#include "engine/device/numerics.h"
#include "engine/model/model_config.h"

namespace mayfly {

class KvPool {
 public:
  // `keep_inputs`: also what enters each token's first adapted layer. Layers below it carry no
  // adapter, so with it their keys and values stay right under every version.
  KvPool(const ModelConfig& model, const Numerics& numerics, int32_t rows, int32_t window_tokens,
         bool keep_inputs = false);

  // One layer of a row: [kv_heads, window_tokens, head_dim].
  at::Tensor Keys(int64_t row, int64_t layer) const { return keys_[row][layer]; }
  at::Tensor Values(int64_t row, int64_t layer) const { return values_[row][layer]; }
  // All layers of a row: [layers, kv_heads, window_tokens, head_dim].
  at::Tensor AllKeys(int64_t row) const { return keys_[row]; }
  at::Tensor AllValues(int64_t row) const { return values_[row]; }

  bool keeps_inputs() const { return inputs_.defined(); }
  // The residual stream before the row's first adapted layer: [window_tokens, hidden], activations.
  at::Tensor Inputs(int64_t row) const { return inputs_[row]; }
  // Positions [begin, end) of one row's lowest `layers` layers, inputs included, to the same place
  // of another row. REQUIRES: keeps_inputs().
  void CopyLower(int64_t from, int64_t to, int64_t begin, int64_t end, int32_t layers);
  // One layer of all rows: [rows + 1, kv_heads, window_tokens, head_dim].
  at::Tensor LayerKeys(int64_t layer) const { return keys_.select(1, layer); }
  at::Tensor LayerValues(int64_t layer) const { return values_.select(1, layer); }

  // Zeroes the first `tokens` positions of a row: all that was ever written.
  void Zero(int64_t row, int64_t tokens);
  // Whether every byte of the row is zero.
  bool IsZero(int64_t row) const;

  // The row of the frozen base model.
  int64_t base_row() const { return keys_.size(0) - 1; }
  int32_t window_tokens() const { return static_cast<int32_t>(keys_.size(3)); }

 private:
  at::Tensor keys_;  // [rows + 1, layers, kv_heads, window_tokens, head_dim], weights' type
  at::Tensor values_;
  at::Tensor inputs_;  // [rows + 1, window_tokens, hidden], activations' type; or undefined
};

}  // namespace mayfly
