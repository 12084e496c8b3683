#pragma once

// Tensor-shaped entrances to the CPU kernels: they share the work among the threads of libtorch's pool.
// Activations are fp32 and contiguous. Any thread.

#include <ATen/ATen.h>

#include "engine/device/cpu/kernels.h"

namespace mayfly {

cpu::WeightMatrix AsWeightMatrix(const at::Tensor& tensor);

// x: [rows, in] fp32; weight: [out, in]; bias: [out] fp32 or undefined -> [rows, out] fp32.
at::Tensor CpuLinear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias);

}  // namespace mayfly
