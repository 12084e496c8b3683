#pragma once

// Root-mean-square normalization (Zhang and Sennrich, arXiv 1910.07467) and its gradient. Const;
// any thread.

#include <ATen/ATen.h>

#include "engine/device/numerics.h"

namespace mayfly {

class RmsNorm {
 public:
  RmsNorm() = default;
  // weight: [width].
  RmsNorm(const Numerics& numerics, const at::Tensor& weight, double eps);

  // x: [tokens, ..., width], activations or matrix type, dense within a token -> the same shape,
  // dense, in the matrix type. The statistics are fp32.
  at::Tensor Forward(const at::Tensor& x) const;
  // The gradient with respect to x, of x's type, from the x of the forward pass. dy: as x, matrix
  // type.
  at::Tensor Backward(const at::Tensor& x, const at::Tensor& dy) const;

 private:
  at::Tensor InverseRms(const at::Tensor& x_float) const;

  Numerics numerics_;
  at::Tensor weight_;  // fp32
  double eps_ = 0;
};

}  // namespace mayfly
