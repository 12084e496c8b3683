#include "engine/model/layers/rms_norm.h"

#include <ATen/Parallel.h>

#include "engine/device/cpu/kernels.h"

namespace mayfly {

RmsNorm::RmsNorm(const at::Tensor& weight, double eps) : weight_(weight.to(at::kFloat)), eps_(eps) {}

at::Tensor RmsNorm::InverseRms(const at::Tensor& x_float) const {
  return x_float.square().mean(-1, /*keepdim=*/true).add_(eps_).rsqrt_();
}

at::Tensor RmsNorm::Forward(const at::Tensor& x) const {
  if (!x.is_cpu() || x.scalar_type() != at::kFloat) {
    const at::Tensor x_float = x.to(at::kFloat);
    return x_float.mul(InverseRms(x_float)).to(x.scalar_type()).mul_(weight_.to(x.scalar_type()));
  }
  const at::Tensor rows = x.contiguous();
  const int64_t width = weight_.size(0);
  at::Tensor y = at::empty_like(rows);
  const float* const in = rows.const_data_ptr<float>();
  const float* const weight = weight_.const_data_ptr<float>();
  float* const out = y.mutable_data_ptr<float>();
  at::parallel_for(0, rows.numel() / width, 32, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      cpu::BestKernels().rms_norm(in + row * width, weight, eps_, width, out + row * width);
    }
  });
  return y;
}

at::Tensor RmsNorm::Backward(const at::Tensor& x, const at::Tensor& dy) const {
  // y_i = w_i x_i s with s = (mean(x^2) + eps)^-1/2, so
  // dx_i = s (w_i dy_i - x_i s^2 mean_j(w_j dy_j x_j)).
  const at::Tensor x_float = x.to(at::kFloat);
  const at::Tensor s = InverseRms(x_float);
  at::Tensor weighted = dy.to(at::kFloat).mul(weight_);
  const at::Tensor dot = weighted.mul(x_float).mean(-1, /*keepdim=*/true);
  return weighted.addcmul_(x_float, dot.mul_(s).mul_(s), -1).mul_(s).to(x.scalar_type());
}

}  // namespace mayfly
