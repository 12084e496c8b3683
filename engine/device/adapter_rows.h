#pragma once

// The adapters of a batch whose tokens belong to different rows, applied together. Any thread.

#include <vector>

#include <ATen/ATen.h>

#include "engine/device/device_ops.h"

namespace mayfly {

// DeviceOps::AddAdapterRows, by `ops` or, where that is null, by plain ATen.
void AddAdapterRows(const DeviceOps* ops, const at::Tensor& x, const AdapterRows& adapters,
                    const std::vector<AdapterPlace>& places, const at::Tensor& y);

}  // namespace mayfly
