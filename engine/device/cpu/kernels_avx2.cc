#define MAYFLY_KERNELS kAvx2Kernels
#define MAYFLY_KERNELS_NAME "avx2"
#define MAYFLY_LANES 8
#include "engine/device/cpu/kernels_impl.h"
