#pragma once

// The device that a test runs on. The same tests are linked once for the CPU and, where the CUDA
// library is built, once for a GPU; which of the two implementations is linked decides.

#include <ATen/ATen.h>

#include "absl/strings/string_view.h"

namespace mayfly {

at::Device TestDevice();
// Why no test of this device can run here; empty where they can.
absl::string_view MissingTestDevice();

}  // namespace mayfly
