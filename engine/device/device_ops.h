#pragma once

// What only a GPU can do, as an interface: hand-written kernels and recorded steps. The optional
// library engine/device/cuda implements it; OpenDevice finds that library beside the program.
// Without it there is no DeviceOps, and plain ATen does the same work. Lives as long as the
// process; any thread, except that a DeviceGraph belongs to one.

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include <ATen/ATen.h>

namespace mayfly {

// Which adapter each token of a batch meets. Adapters are rows of one pool, whatever their rank.
struct AdapterRows {
  // [rows, elements], the weights' type; undefined: no token has an adapter. A row has zeros where
  // its adapter adapts nothing.
  at::Tensor pool;
  at::Tensor rows;    // [tokens] int64; -1: this token has no adapter here
  at::Tensor ranks;   // [tokens] int64, of the token's adapter
  at::Tensor scales;  // [tokens] fp32, alpha / rank of the token's adapter
  int64_t max_rank = 0;
};

// Where one module's adapter lies in a row of the pool, and where its output in the fused product.
struct AdapterPlace {
  int64_t a = 0;        // offset of A: [rank, in]
  int64_t b = 0;        // offset of B, transposed: [rank, out]
  int64_t y_begin = 0;  // first column of y
  int64_t out = 0;
};

// Work recorded once and run again with a single launch: the same kernels on the same addresses.
class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;
  // Records what `work` launches on the current stream, without running it. Throws.
  virtual void Capture(const std::function<void()>& work) = 0;
  // Runs it on the current stream. Throws.
  virtual void Replay() = 0;
};

class DeviceOps {
 public:
  virtual ~DeviceOps() = default;

  // y[t] += scale_t B_t (A_t x[t]) for each place. x: [tokens, in], dense, and y: [tokens, >= out],
  // dense within a token, both in the pool's type, bf16 or fp32; sums are fp32. No place overlaps
  // another.
  virtual void AddAdapterRows(const at::Tensor& x, const AdapterRows& adapters,
                              const std::vector<AdapterPlace>& places,
                              const at::Tensor& y) const = 0;

  // Graphs of one DeviceOps share their memory: one runs after the other, on one stream.
  virtual std::unique_ptr<DeviceGraph> NewGraph() const = 0;
};

// What the library exports under kDeviceOpsEntry. Null: the library is of another build, or has no
// code for this device.
using DeviceOpsEntry = const DeviceOps* (*)(int version, at::Device device);
inline constexpr char kDeviceOpsEntry[] = "MayflyDeviceOps";
// Counted up with every change of this file.
inline constexpr int kDeviceOpsVersion = 1;

}  // namespace mayfly
