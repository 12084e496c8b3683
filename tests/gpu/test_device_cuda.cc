#include "engine/device/open_device.h"
#include "tests/support/test_device.h"

namespace mayfly {
namespace {

struct Gpu {
  OpenedDevice opened;
  std::string missing;
};

// A GPU without the library is a failed build, not a missing device: the tests of kernels then
// fail.
const Gpu& TheGpu() {
  static const Gpu gpu = [] {
    const absl::StatusOr<OpenedDevice> opened = OpenDevice("cuda");
    return opened.ok() ? Gpu{*opened, ""} : Gpu{{}, std::string(opened.status().message())};
  }();
  return gpu;
}

}  // namespace

at::Device TestDevice() { return TheGpu().opened.device; }
const DeviceOps* TestDeviceOps() { return TheGpu().opened.ops; }
absl::string_view MissingTestDevice() { return TheGpu().missing; }

}  // namespace mayfly
