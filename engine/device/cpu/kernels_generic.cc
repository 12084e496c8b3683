#define MAYFLY_KERNELS kGenericKernels
#define MAYFLY_KERNELS_NAME "generic"
#define MAYFLY_LANES 4
#include "engine/device/cpu/kernels_impl.h"
