#pragma once

// A stored reference case: a tiny model with its rows, and the values that the reference computed.

#include <memory>
#include <string>

#include <ATen/ATen.h>

#include "engine/model/causal_lm.h"
#include "engine/model/checkpoint.h"
#include "engine/pool/adapter_pool.h"
#include "engine/pool/kv_pool.h"
#include "engine/pool/slot_layout.h"
#include "nlohmann/json.hpp"

namespace mayfly {

// Where tests/parity/data lies; tests run in the root of the tree.
inline constexpr char kParityData[] = "tests/parity/data/";

// A model with its rows, ready to run; on the CPU unless a test says otherwise.
struct TinyModel {
  Numerics numerics;
  std::unique_ptr<SlotLayout> layout;
  std::unique_ptr<CausalLm> model;
  std::unique_ptr<KvPool> kv;
  std::unique_ptr<AdapterPool> adapters;
};

TinyModel LoadTinyModel(const std::string& dir, DType dtype, int32_t window_tokens,
                        int32_t max_rank, int32_t rows = 2, bool keep_lower_layers = false);
// The same on another device, or without a device's own kernels.
TinyModel LoadTinyModel(const std::string& dir, const Numerics& numerics, int32_t window_tokens,
                        int32_t max_rank, int32_t rows = 2, bool keep_lower_layers = false);

// A file of reference tensors or of reference numbers.
Checkpoint ReadTensors(const std::string& path);
nlohmann::json ReadJson(const std::string& path);

// The largest difference, relative to the largest reference value.
double RelativeError(const at::Tensor& actual, const at::Tensor& expected);

// Copies `<prefix>layers.<i>.<module>.lora_A` and `.lora_B` to a row's masters, wherever they are
// stored.
void SetMasters(const Checkpoint& tensors, const std::string& prefix, const AdapterView& masters);

// The parts of a view by their reference names, B turned back to [out, rank].
template <typename Visit>
void ForEachMatrix(const AdapterView& view, Visit&& visit) {
  for (int32_t layer = 0; layer < view.layout->layers(); ++layer) {
    for (const Module module : kAllModules) {
      const std::string name = "layers." + std::to_string(layer) + "." + ModuleName(module);
      visit(name + ".lora_A", view.A(layer, module));
      visit(name + ".lora_B", view.B(layer, module).t());
    }
  }
}

}  // namespace mayfly
