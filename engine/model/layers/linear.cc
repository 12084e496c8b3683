#include "engine/model/layers/linear.h"

#include <utility>

#include "engine/model/layers/cpu_ops.h"

namespace mayfly {

Linear::Linear(const Numerics& numerics, at::Tensor weight, at::Tensor bias)
    : numerics_(numerics), weight_(std::move(weight)), bias_(std::move(bias)) {
  if (bias_.defined()) bias_float_ = bias_.to(at::kFloat);
}

at::Tensor Linear::Forward(const at::Tensor& x) const {
  if (numerics_.kernels != nullptr && x.size(0) <= kFewRows) {
    return CpuLinear(*numerics_.kernels, x, weight_, bias_float_, numerics_.matrix);
  }
  at::Tensor y = MatrixProduct(numerics_, x, weight_.t());
  if (bias_.defined()) y.add_(bias_);
  return y;
}

at::Tensor Linear::ForwardFloat(const at::Tensor& x) const {
  if (numerics_.kernels != nullptr && x.size(0) <= kFewRows) {
    return CpuLinear(*numerics_.kernels, x, weight_, bias_float_, at::kFloat);
  }
  return Forward(x).to(at::kFloat);
}

at::Tensor Linear::BackwardInput(const at::Tensor& dy) const {
  return MatrixProduct(numerics_, dy, weight_);
}

at::Tensor MatrixProduct(const Numerics& numerics, const at::Tensor& x, const at::Tensor& w) {
  return at::mm(x.to(numerics.matrix), w.to(numerics.matrix));
}

}  // namespace mayfly
