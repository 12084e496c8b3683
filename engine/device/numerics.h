#pragma once

// Which number types a device computes with. Weights, keys, values and serving adapters rest in
// `weights`; the residual stream, and the gradient along it, is in `activations`; what linear
// layers, attention and the elementwise work between them read and write is in `matrix`.
//
// On a CPU the residual stream is fp32: its additions cost little. `matrix` is bfloat16 only where
// the CPU multiplies it natively; without that (no AVX512-BF16) libtorch's bfloat16 products are
// ten times slower than converting to fp32.

#include <ATen/ATen.h>

#include "engine/device/cpu/kernels.h"
#include "engine/device/device_ops.h"
#include "engine/options.h"

namespace mayfly {

struct Numerics {
  at::Device device = at::kCPU;
  at::ScalarType weights = at::kFloat;
  at::ScalarType activations = at::kFloat;
  at::ScalarType matrix = at::kFloat;
  // Null: plain ATen does the work. Set only on a CPU.
  const cpu::Kernels* kernels = nullptr;
  // The same for a GPU, of a library that need not be there.
  const DeviceOps* ops = nullptr;

  at::TensorOptions WeightOptions() const { return at::TensorOptions(device).dtype(weights); }
  at::TensorOptions ActivationOptions() const {
    return at::TensorOptions(device).dtype(activations);
  }
  at::TensorOptions MatrixOptions() const { return at::TensorOptions(device).dtype(matrix); }
};

Numerics NumericsFor(at::Device device, DType dtype);

}  // namespace mayfly
