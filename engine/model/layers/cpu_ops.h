#pragma once

// What the layers share when they call the CPU kernels on tensors. Any thread; loops are shared
// among the threads of libtorch's pool.

#include <ATen/ATen.h>

#include "engine/device/cpu/kernels.h"

namespace mayfly {

// The elements of a contiguous tensor, fp32 or bfloat16.
cpu::Array CpuArray(const at::Tensor& tensor);
// The same from element `offset` on.
cpu::Array CpuArray(const at::Tensor& tensor, int64_t offset);

// Tokens worth handing to another thread when each is a row of elementwise work.
inline constexpr int64_t kGrainTokens = 8;

// x: [rows, in]; weight: [out, in]; bias: [out] fp32 or undefined -> [rows, out] of type
// `out_type`: x's type or fp32.
at::Tensor CpuLinear(const cpu::Kernels& kernels, const at::Tensor& x, const at::Tensor& weight,
                     const at::Tensor& bias, at::ScalarType out_type);

}  // namespace mayfly
