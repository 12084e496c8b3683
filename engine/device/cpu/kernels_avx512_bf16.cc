#define MAYFLY_KERNELS kAvx512Bf16Kernels
#define MAYFLY_KERNELS_NAME "avx512_bf16"
#define MAYFLY_LANES 16
#define MAYFLY_BFLOAT16_PRODUCTS
#include "engine/device/cpu/kernels_impl.h"
