#include "engine/device/cpu/kernels.h"

namespace mayfly::cpu {

extern const Kernels kGenericKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;
extern const Kernels kAvx512Bf16Kernels;

KernelList SupportedKernels() {
  static const Kernels* const all[] = {&kGenericKernels, &kAvx2Kernels, &kAvx512Kernels,
                                       &kAvx512Bf16Kernels};
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  return {all, 1 + int64_t{avx2} + int64_t{avx512} + int64_t{bf16}};
}

const Kernels& BestKernels() {
  static const KernelList list = SupportedKernels();
  return *list.data[list.count - 1];
}

}  // namespace mayfly::cpu
