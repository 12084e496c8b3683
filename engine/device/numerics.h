#pragma once

// Which number types a device computes with. Weights, keys, values and serving adapters rest in
// `weights`; everything between two linear layers is in `activations`; large matrix products and
// attention run in `matrix`.
//
// On a CPU activations are fp32: a decode step is bound by reading weights, and elementwise work costs
// the same in either type. `matrix` is bfloat16 only where the CPU multiplies it natively; without that
// (no AVX512-BF16) libtorch's bfloat16 products are ten times slower than converting to fp32.

#include <ATen/ATen.h>

#include "engine/options.h"

namespace mayfly {

struct Numerics {
  at::Device device = at::kCPU;
  at::ScalarType weights = at::kFloat;
  at::ScalarType activations = at::kFloat;
  at::ScalarType matrix = at::kFloat;

  bool on_cpu() const { return device.is_cpu(); }
  at::TensorOptions WeightOptions() const { return at::TensorOptions(device).dtype(weights); }
  at::TensorOptions ActivationOptions() const { return at::TensorOptions(device).dtype(activations); }
};

Numerics NumericsFor(at::Device device, DType dtype);

}  // namespace mayfly
