#pragma once

// The device that a test runs on. The same tests are linked once for the CPU and, where the CUDA
// library is built, once for a GPU; which of the two implementations is linked decides.

#include <ATen/ATen.h>

#include "absl/strings/string_view.h"
#include "engine/device/device_ops.h"

namespace mayfly {

at::Device TestDevice();
// Null: plain ATen does the work, as it does on every CPU.
const DeviceOps* TestDeviceOps();
// Why no test of this device can run here; empty where they can.
absl::string_view MissingTestDevice();

}  // namespace mayfly
