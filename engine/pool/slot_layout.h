#pragma once

// The size table of a row: which tensors an adapter has, where each lies in the row, and what the
// row costs in bytes. Every row has the same layout, made for the server's largest rank; an adapter
// of rank r uses the first r rows of each of its tensors, so a row's used part of a tensor is
// contiguous and the rest stays zero. Plain arithmetic, no memory; immutable, any thread.

#include <array>
#include <cstdint>
#include <vector>

#include "engine/model/model_config.h"
#include "engine/options.h"
#include "engine/types.h"

namespace mayfly {

// The adapted linear layers of a decoder layer, in the order in which they are computed.
enum class Module { kQ, kK, kV, kO, kGate, kUp, kDown };
inline constexpr int kModules = 7;
inline constexpr std::array<Module, kModules> kAllModules = {
    Module::kQ, Module::kK, Module::kV, Module::kO, Module::kGate, Module::kUp, Module::kDown};

// "q_proj" and so on, as checkpoints name it.
const char* ModuleName(Module module);
bool IsTarget(TargetModules targets, Module module);

struct ModuleShape {
  int32_t in = 0;
  int32_t out = 0;
};

// One tensor of a row: [rank, width] row-major, of which the first rows are used.
// A is [rank, in]; B is kept transposed, [rank, out], so that both are cut by rank alike.
struct AdapterTensor {
  int64_t offset = 0;  // in elements, from the start of the row
  int32_t width = 0;
};

struct AdapterPair {
  AdapterTensor a;
  AdapterTensor b;
};

// A run of elements of a row.
struct Span {
  int64_t offset = 0;
  int64_t count = 0;
};

class SlotLayout {
 public:
  // `weight_bytes`: bytes of one serving weight, and of one key or value element. `keep_inputs`: a
  // row holds what enters its first adapted layer too (KvPool).
  SlotLayout(const ModelConfig& model, int32_t max_rank, int32_t window_tokens, int weight_bytes,
             bool keep_inputs = false);

  const AdapterPair& pair(int32_t layer, Module module) const {
    return pairs_[static_cast<size_t>(layer) * kModules + static_cast<size_t>(module)];
  }
  const ModuleShape& shape(Module module) const { return shapes_[static_cast<size_t>(module)]; }

  // Elements of one adapter at the largest rank.
  int64_t adapter_elements() const { return adapter_elements_; }
  // Elements of K, and as many of V, in one row.
  int64_t kv_elements() const { return kv_elements_; }
  int32_t layers() const { return layers_; }
  int32_t max_rank() const { return max_rank_; }

  // The parts of a row that an adapter uses, ascending and never touching those of its unused
  // ranks.
  std::vector<Span> ActiveSpans(const AdapterSpec& adapter) const;
  // Parameters of an adapter.
  int64_t ActiveElements(const AdapterSpec& adapter) const;

  // kv: keys, values and kept inputs; adapter: two serving copies and, to roll back to, one fp32
  // copy; optimizer: fp32 masters and both moments.
  RowBytes row_bytes() const;

 private:
  const int32_t layers_;
  const int32_t max_rank_;
  const int weight_bytes_;
  std::array<ModuleShape, kModules> shapes_;
  std::vector<AdapterPair> pairs_;
  int64_t adapter_elements_ = 0;
  int64_t kv_elements_ = 0;
  uint64_t input_bytes_ = 0;
};

}  // namespace mayfly
