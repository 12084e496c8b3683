#pragma once

// A row in host memory: all that it is between two pieces of work, so that an engine with the same
// model goes on from it to the same bits. Plain values; shared, and constant once made.

#include <cstdint>
#include <string>
#include <vector>

#include "engine/options.h"

namespace mayfly {

// A tensor's elements, row-major, in the machine's byte order (little-endian).
struct TensorBytes {
  std::string name;
  DType type = DType::kFloat32;
  std::vector<int64_t> shape;
  std::string bytes;
};

struct RowState {
  // The window: its tokens, where it starts in the stream, and how far its keys and values reach
  // (those of the layers below the adapter: lower_length).
  std::vector<int32_t> tokens;
  uint64_t window_start = 0;
  int64_t kv_length = 0;
  int64_t lower_length = 0;
  uint64_t adapter_version = 0;
  // Steps that the moments have seen.
  int64_t optimizer_steps = 0;
  // Of a whole row: "keys" and "values" [layers, kv_heads, n, head_dim] of the first
  // n = max(kv_length, lower_length) positions, "inputs" [n, hidden] where the engine keeps them,
  // and with an adapter "master", "moment1", "moment2" and "checkpoint", each the used parts of
  // the row's layout one after the other, fp32.
  // Of the adapter alone: fp32 masters, one tensor a matrix, named and shaped as PEFT does.
  std::vector<TensorBytes> tensors;
};

}  // namespace mayfly
