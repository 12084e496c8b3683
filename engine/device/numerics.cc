#include "engine/device/numerics.h"

namespace mayfly {

Numerics NumericsFor(at::Device device, DType dtype) {
  Numerics numerics;
  numerics.device = device;
  if (device.is_cpu()) numerics.kernels = &cpu::BestKernels();
  if (dtype == DType::kFloat32) return numerics;
  numerics.weights = at::kBFloat16;
  if (!device.is_cpu()) {
    numerics.activations = numerics.matrix = at::kBFloat16;
  } else if (numerics.kernels->bfloat16_products) {
    numerics.matrix = at::kBFloat16;
  }
  return numerics;
}

}  // namespace mayfly
