#include "engine/model/layers/cpu_ops.h"

#include <ATen/Parallel.h>

namespace mayfly {
namespace {

// Output elements worth handing to another thread: at this many the work outlasts the hand-over.
constexpr int64_t kGrainMultiplies = 32 * 1024;

}  // namespace

cpu::WeightMatrix AsWeightMatrix(const at::Tensor& tensor) {
  return {tensor.const_data_ptr(), tensor.scalar_type() == at::kBFloat16
                                       ? cpu::WeightType::kBFloat16
                                       : cpu::WeightType::kFloat32};
}

at::Tensor CpuLinear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const int64_t rows = x.size(0), in = x.size(1), out = weight.size(0);
  at::Tensor y = at::empty({rows, out}, x.options());
  const float* const x_data = x.const_data_ptr<float>();
  const float* const bias_data = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  float* const y_data = y.mutable_data_ptr<float>();
  const cpu::WeightMatrix w = AsWeightMatrix(weight);
  at::parallel_for(0, out, 1 + kGrainMultiplies / in, [&](int64_t begin, int64_t end) {
    cpu::BestKernels().linear(x_data, rows, in, w, bias_data, begin, end, y_data, out);
  });
  return y;
}

}  // namespace mayfly
