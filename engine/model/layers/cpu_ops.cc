#include "engine/model/layers/cpu_ops.h"

#include <ATen/Parallel.h>

namespace mayfly {
namespace {

// Multiplications worth handing to another thread: with this many the work outlasts the hand-over.
constexpr int64_t kGrainMultiplies = 32 * 1024;

}  // namespace

cpu::Array CpuArray(const at::Tensor& tensor) { return CpuArray(tensor, 0); }

cpu::Array CpuArray(const at::Tensor& tensor, int64_t offset) {
  const bool half = tensor.scalar_type() == at::kBFloat16;
  return {static_cast<char*>(tensor.data_ptr()) + offset * (half ? 2 : 4),
          half ? cpu::Type::kBFloat16 : cpu::Type::kFloat32};
}

at::Tensor CpuLinear(const cpu::Kernels& kernels, const at::Tensor& x, const at::Tensor& weight,
                     const at::Tensor& bias, at::ScalarType out_type) {
  const int64_t rows = x.size(0), in = x.size(1), out = weight.size(0);
  at::Tensor y = at::empty({rows, out}, x.options().dtype(out_type));
  const float* const bias_data = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  const cpu::Array x_data = CpuArray(x), w = CpuArray(weight), y_data = CpuArray(y);
  at::parallel_for(0, out, 1 + kGrainMultiplies / in, [&](int64_t begin, int64_t end) {
    kernels.linear(x_data, rows, in, w, bias_data, begin, end, y_data, out);
  });
  return y;
}

}  // namespace mayfly
