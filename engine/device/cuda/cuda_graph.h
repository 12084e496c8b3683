#pragma once

// A DeviceGraph over libtorch's CUDAGraph. Made by CudaOps; its owner's thread.

#include <functional>

#include <ATen/cuda/CUDAGraph.h>

#include "engine/device/device_ops.h"

namespace mayfly::cuda {

class CudaGraph final : public DeviceGraph {
 public:
  // `pool`: where what the work allocates lives, from the record on until the last graph goes.
  explicit CudaGraph(at::cuda::MempoolId_t pool) : pool_(pool) {}

  void Capture(const std::function<void()>& work) override;
  void Replay() override { graph_.replay(); }

 private:
  const at::cuda::MempoolId_t pool_;
  at::cuda::CUDAGraph graph_;
};

}  // namespace mayfly::cuda
