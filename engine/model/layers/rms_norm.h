#pragma once

// Root-mean-square normalization (Zhang and Sennrich, arXiv 1910.07467) and its gradient. Const; any
// thread.

#include <ATen/ATen.h>

namespace mayfly {

class RmsNorm {
 public:
  RmsNorm() = default;
  // weight: [width].
  RmsNorm(const at::Tensor& weight, double eps);

  // x: [..., width] -> the same shape and type; the statistics are fp32.
  at::Tensor Forward(const at::Tensor& x) const;
  // The gradient with respect to x, from the x of the forward pass. dy: as x.
  at::Tensor Backward(const at::Tensor& x, const at::Tensor& dy) const;

 private:
  at::Tensor InverseRms(const at::Tensor& x_float) const;

  at::Tensor weight_;  // fp32
  double eps_ = 0;
};

}  // namespace mayfly
