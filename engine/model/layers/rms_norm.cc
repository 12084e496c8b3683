#include "engine/model/layers/rms_norm.h"

#include <ATen/Parallel.h>

#include "engine/model/layers/cpu_ops.h"

namespace mayfly {

RmsNorm::RmsNorm(const Numerics& numerics, const at::Tensor& weight, double eps)
    : numerics_(numerics), weight_(weight.to(at::kFloat)), eps_(eps) {}

at::Tensor RmsNorm::InverseRms(const at::Tensor& x_float) const {
  return x_float.square().mean(-1, /*keepdim=*/true).add_(eps_).rsqrt_();
}

at::Tensor RmsNorm::Forward(const at::Tensor& x) const {
  if (numerics_.kernels == nullptr) {
    const at::Tensor x_float = x.to(at::kFloat);
    return x_float.mul(InverseRms(x_float)).to(numerics_.matrix).mul_(weight_.to(numerics_.matrix));
  }
  at::Tensor y = at::empty(x.sizes(), numerics_.MatrixOptions());
  const int64_t width = weight_.size(0), tokens = x.size(0), token = y.stride(0);
  const float* const weight = weight_.const_data_ptr<float>();
  at::parallel_for(0, tokens, kGrainTokens, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      numerics_.kernels->rms_norm(CpuArray(x, i * x.stride(0)), width, weight, eps_, token / width,
                                  width, CpuArray(y, i * token), width);
    }
  });
  return y;
}

at::Tensor RmsNorm::Backward(const at::Tensor& x, const at::Tensor& dy) const {
  if (numerics_.kernels == nullptr) {
    // y_i = w_i x_i s with s = (mean(x^2) + eps)^-1/2, so
    // dx_i = s (w_i dy_i - x_i s^2 mean_j(w_j dy_j x_j)).
    const at::Tensor x_float = x.to(at::kFloat);
    const at::Tensor s = InverseRms(x_float);
    at::Tensor weighted = dy.to(at::kFloat).mul(weight_);
    const at::Tensor dot = weighted.mul(x_float).mean(-1, /*keepdim=*/true);
    return weighted.addcmul_(x_float, dot.mul_(s).mul_(s), -1).mul_(s).to(x.scalar_type());
  }
  at::Tensor dx = at::empty(x.sizes(), x.options());
  const int64_t width = weight_.size(0), tokens = x.size(0), token = dx.stride(0);
  const float* const weight = weight_.const_data_ptr<float>();
  at::parallel_for(0, tokens, kGrainTokens, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      numerics_.kernels->rms_norm_backward(CpuArray(x, i * x.stride(0)), width, weight, eps_,
                                           token / width, width, CpuArray(dy, i * dy.stride(0)),
                                           CpuArray(dx, i * token));
    }
  });
  return dx;
}

}  // namespace mayfly
