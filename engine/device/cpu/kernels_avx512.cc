#define MAYFLY_KERNELS kAvx512Kernels
#define MAYFLY_KERNELS_NAME "avx512"
#define MAYFLY_LANES 16
#include "engine/device/cpu/kernels_impl.h"
