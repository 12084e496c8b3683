#pragma once

// Host memory that takes part in copies to and from a device. For a GPU it is pinned: only from and
// to pinned memory does a non-blocking copy not block. Any thread.

#include <ATen/ATen.h>

namespace mayfly {

// Uninitialized. Pinning is slow: once, not every step.
inline at::Tensor HostTensor(at::IntArrayRef sizes, at::ScalarType type, at::Device device) {
  return at::empty(sizes, at::TensorOptions().dtype(type).pinned_memory(!device.is_cpu()));
}

}  // namespace mayfly
