#pragma once

// Rotary position embedding with its scalings. Const after construction; any thread.

#include <ATen/ATen.h>

#include "engine/device/numerics.h"
#include "engine/model/model_config.h"

namespace mayfly {

class Rotary {
 public:
  // Tables for positions 0..positions-1. Dynamic scaling depends on the length of the sequence;
  // here it is the full window, so that a key never has to be rotated again.
  Rotary(const Numerics& numerics, const RopeConfig& config, int32_t head_dim, int32_t positions);

  // Rotates in place, head_dim split in halves. x: [tokens, heads, head_dim], dense within a token;
  // positions: [tokens] int64.
  void Rotate(at::Tensor& x, const at::Tensor& positions) const;
  // The gradient's way back: the same rotation by the opposite angle.
  void RotateBack(at::Tensor& dx, const at::Tensor& positions) const;
  // Keys that were rotated for their positions, for positions `by` lower: [tokens, heads, head_dim]
  // -> the same. Rounded once.
  at::Tensor Shift(const at::Tensor& keys, int64_t by) const;

 private:
  void Apply(at::Tensor& x, const at::Tensor& positions, double direction) const;

  const Numerics numerics_;
  double attention_factor_ = 1;
  at::Tensor cos_;  // [positions, head_dim / 2] fp32, attention factor included
  at::Tensor sin_;
};

}  // namespace mayfly
