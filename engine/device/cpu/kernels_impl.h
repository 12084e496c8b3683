#pragma once

// The kernels themselves, compiled once per instruction set: the including file defines
//   MAYFLY_KERNELS            the name of the table
//   MAYFLY_KERNELS_NAME       the same for people
//   MAYFLY_LANES              floats in a vector register
//   MAYFLY_BFLOAT16_PRODUCTS  only where the AVX512-BF16 instructions are there

#include "engine/device/cpu/attention.h"
#include "engine/device/cpu/elementwise.h"
#include "engine/device/cpu/kernels.h"
#include "engine/device/cpu/products.h"

namespace mayfly::cpu {

#ifdef MAYFLY_BFLOAT16_PRODUCTS
constexpr bool kBFloat16Products = true;
#else
constexpr bool kBFloat16Products = false;
#endif

extern const Kernels MAYFLY_KERNELS;
const Kernels MAYFLY_KERNELS = {
    .name = MAYFLY_KERNELS_NAME,
    .bfloat16_products = kBFloat16Products,
    .linear = LinearKernel,
    .expand = ExpandKernel,
    .rms_norm = RmsNormKernel,
    .rms_norm_backward = RmsNormBackwardKernel,
    .silu_mul = SiluMulKernel,
    .silu_mul_backward = SiluMulBackwardKernel,
    .rotate = RotateKernel,
    .add = AddKernel,
    .copy = CopyKernel,
    .log_sum_exp = LogSumExpKernel,
    .softmax_weights = SoftmaxWeightsKernel,
    .cross_entropy_backward = CrossEntropyBackwardKernel,
    .attend = AttendKernel,
    .transpose = TransposeKernel,
    .attention = AttentionKernel,
    .attention_backward = AttentionBackwardKernel,
    .attention_scratch = AttentionScratch,
};

}  // namespace mayfly::cpu
