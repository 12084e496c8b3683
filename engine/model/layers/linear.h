#pragma once

// A frozen linear layer and its gradient with respect to its input. Const after construction; any
// thread.

#include <ATen/ATen.h>

#include "engine/device/numerics.h"

namespace mayfly {

class Linear {
 public:
  Linear() = default;
  // weight: [out, in], Numerics::weights; bias: [out] or undefined.
  Linear(const Numerics& numerics, at::Tensor weight, at::Tensor bias = {});

  // x: [tokens, in] -> [tokens, out], both in the matrix type.
  at::Tensor Forward(const at::Tensor& x) const;
  // The same in fp32: not rounded where the product does not round.
  at::Tensor ForwardFloat(const at::Tensor& x) const;
  // dy: [tokens, out] -> dx: [tokens, in], both in the matrix type.
  at::Tensor BackwardInput(const at::Tensor& dy) const;

  int64_t in() const { return weight_.size(1); }
  int64_t out() const { return weight_.size(0); }
  const at::Tensor& weight() const { return weight_; }

 private:
  Numerics numerics_;
  at::Tensor weight_;
  at::Tensor bias_;        // weights' type
  at::Tensor bias_float_;  // the same in fp32, for the CPU kernels
};

// The product of x [m, k] and w [k, n] (any strides), computed and returned in the matrix type.
at::Tensor MatrixProduct(const Numerics& numerics, const at::Tensor& x, const at::Tensor& w);

// Rows up to which the CPU kernels beat the library's products.
inline constexpr int64_t kFewRows = 16;

}  // namespace mayfly
