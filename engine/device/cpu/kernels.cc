#include "engine/device/cpu/kernels.h"

namespace mayfly::cpu {

extern const Kernels kGenericKernels;
extern const Kernels kAvx2Kernels;
extern const Kernels kAvx512Kernels;

KernelList SupportedKernels() {
  static const Kernels* const all[] = {&kGenericKernels, &kAvx2Kernels, &kAvx512Kernels};
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  return {all, avx512 ? 3 : avx2 ? 2 : 1};
}

const Kernels& BestKernels() {
  const KernelList list = SupportedKernels();
  return *list.begin_[list.count - 1];
}

}  // namespace mayfly::cpu
