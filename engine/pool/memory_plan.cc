#include "engine/pool/memory_plan.h"

#include <malloc.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace mayfly {
namespace {

// Of a forward or backward pass; each is what lives at the widest moment.
struct PassSizes {
  uint64_t hidden;
  uint64_t query;
  uint64_t key;
  uint64_t intermediate;
  uint64_t matrix;  // bytes of an element between linear layers
};

PassSizes SizesOf(const ModelConfig& model, int matrix_bytes) {
  return {.hidden = static_cast<uint64_t>(model.hidden),
          .query = static_cast<uint64_t>(model.heads) * model.head_dim,
          .key = static_cast<uint64_t>(model.kv_heads) * model.head_dim,
          .intermediate = static_cast<uint64_t>(model.intermediate),
          .matrix = static_cast<uint64_t>(matrix_bytes)};
}

// Two residual streams in fp32, the norm, the fused products and their result.
uint64_t StepBytesPerToken(const PassSizes& s) {
  const uint64_t attention = s.matrix * (2 * s.query + 2 * s.key + s.hidden);
  const uint64_t mlp = s.matrix * (3 * s.intermediate + 2 * s.hidden);
  return 2 * sizeof(float) * s.hidden + std::max(attention, mlp);
}

// What each layer keeps of a token for its backward pass (LayerTrace): the residual stream twice,
// the fused queries, keys and values, keys and values once more as the pool holds them, what was
// attended to, and the gate with its partner.
uint64_t TraceBytesPerToken(const PassSizes& s) {
  return 2 * sizeof(float) * s.hidden + s.matrix * (2 * s.query + 4 * s.key + 2 * s.intermediate);
}

// Holes that the heap cannot fill, one part in so many. Measured on the default model at peaks of
// 400 to 560 MB of passing tensors: 43 to 118 MB, of which the terms above cover about half, since
// not all of them are at their widest at once.
constexpr uint64_t kHeapSlack = 16;

// A block of logits as loss and scores take them (train/loss.cc), and their gradient.
uint64_t LogitBytes(const ModelConfig& model, int matrix_bytes) {
  return static_cast<uint64_t>(kLogitBlockTokens) * static_cast<uint64_t>(model.vocabulary) *
         static_cast<uint64_t>(matrix_bytes);
}

}  // namespace

MemoryAccount PlanMemory(const ModelConfig& model, const SlotLayout& layout,
                         const EngineOptions& options, int matrix_bytes, uint64_t process_bytes,
                         uint64_t weight_bytes) {
  const PassSizes sizes = SizesOf(model, matrix_bytes);
  const uint64_t layers = static_cast<uint64_t>(model.layers);
  const uint64_t update_tokens = static_cast<uint64_t>(options.max_update_tokens);
  const uint64_t adapter = static_cast<uint64_t>(layout.adapter_elements()) * sizeof(float);
  const uint64_t prefix_keys =
      static_cast<uint64_t>(options.window_tokens) * 2 * sizes.key * sizes.matrix;
  MemoryAccount account;
  account.process = process_bytes;
  account.weights = weight_bytes;
  account.base_row = layout.row_bytes().kv;
  account.logits = 2 * LogitBytes(model, matrix_bytes) +
                   2 * sizeof(float) * static_cast<uint64_t>(std::max(options.slots, 1)) *
                       static_cast<uint64_t>(model.vocabulary);
  account.activation =
      static_cast<uint64_t>(options.step_tokens) * StepBytesPerToken(sizes) + prefix_keys +
      update_tokens * (layers * TraceBytesPerToken(sizes) + 2 * StepBytesPerToken(sizes)) +
      layers * prefix_keys;
  account.activation += account.activation / kHeapSlack;
  // Gradients of a group; masters and moments to return to.
  const int32_t group =
      options.slots > 0 ? std::min(options.update_group, options.slots) : options.update_group;
  account.update = adapter * (static_cast<uint64_t>(group) + 3);
  return account;
}

absl::StatusOr<int32_t> CountRows(const EngineOptions& options, const MemoryAccount& account,
                                  uint64_t row_bytes) {
  if (options.memory_budget_bytes == 0) return options.slots;
  const uint64_t budget = options.memory_budget_bytes, fixed = account.total();
  const uint64_t fitting = budget > fixed ? (budget - fixed) / row_bytes : 0;
  if (options.slots == 0 && fitting > 0) {
    return static_cast<int32_t>(std::min<uint64_t>(fitting, kMostRows));
  }
  const uint64_t wanted = static_cast<uint64_t>(std::max(options.slots, 1));
  if (fitting >= wanted) return options.slots;
  return absl::ResourceExhaustedError(
      absl::StrCat("memory_budget is ", budget, " bytes; the model and its working memory take ",
                   fixed, " and ", wanted, " rows of ", row_bytes,
                   " bytes each: ", fixed + wanted * row_bytes - budget, " bytes are missing"));
}

uint64_t ResidentBytes() {
  std::ifstream file("/proc/self/statm");
  uint64_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

void ShareOneHeap() { mallopt(M_ARENA_MAX, 1); }

void ReturnFreeMemory() { malloc_trim(0); }

}  // namespace mayfly
