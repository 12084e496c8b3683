#include "engine/device/open_device.h"

#include <dlfcn.h>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/device/torch_guard.h"

namespace mayfly {
namespace {

// The optional library, from the folder that the program was linked to look into.
void FindOps(OpenedDevice* opened) {
  void* const library = dlopen("libmayfly_cuda.so", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) {
    opened->note = dlerror();
    return;
  }
  const auto entry = reinterpret_cast<DeviceOpsEntry>(dlsym(library, kDeviceOpsEntry));
  if (entry != nullptr) opened->ops = entry(kDeviceOpsVersion, opened->device);
  if (opened->ops == nullptr) {
    opened->note = "libmayfly_cuda.so is of another build or has no code for this device";
  }
}

}  // namespace

absl::StatusOr<OpenedDevice> OpenDevice(const std::string& name) {
  OpenedDevice opened;
  if (name == "cpu") return opened;
  // A CPU-only process never maps libtorch's CUDA library; loading it registers the backend, if
  // that happens before anything has asked for CUDA.
  if (dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_GLOBAL) == nullptr) {
    return absl::FailedPreconditionError(
        absl::StrCat("device ", name, ": libtorch's CUDA library cannot be loaded: ", dlerror()));
  }
  MAYFLY_RETURN_IF_ERROR(RunGuarded("opening the device", [&] {
    const at::Tensor probe = at::zeros({1}, at::TensorOptions(at::Device(name)));
    probe.item<float>();
    opened.device = probe.device();
    FindOps(&opened);
  }));
  return opened;
}

}  // namespace mayfly
