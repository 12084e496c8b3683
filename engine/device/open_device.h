#pragma once

// Makes a device ready and finds what the process has for it. Called once, before the model loads.

#include <string>

#include <ATen/ATen.h>

#include "absl/status/statusor.h"
#include "engine/device/device_ops.h"

namespace mayfly {

struct OpenedDevice {
  at::Device device = at::kCPU;
  // Null: plain ATen only.
  const DeviceOps* ops = nullptr;
  // Why `ops` is null on a GPU.
  std::string note;
};

// `name`: "cpu", "cuda" or "cuda:N". FAILED_PRECONDITION when libtorch's CUDA library cannot be
// loaded, INTERNAL when there is no such device.
absl::StatusOr<OpenedDevice> OpenDevice(const std::string& name);

}  // namespace mayfly
