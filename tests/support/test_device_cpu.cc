#include "tests/support/test_device.h"

namespace mayfly {

at::Device TestDevice() { return at::kCPU; }
const DeviceOps* TestDeviceOps() { return nullptr; }
absl::string_view MissingTestDevice() { return ""; }

}  // namespace mayfly
