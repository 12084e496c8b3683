#pragma once

// The one byte ledger: all that the process will hold at full load, known before the first session
// is admitted. Rows follow from a budget, and a budget that does not hold even one row is refused
// with the bytes that are missing. Plain arithmetic; any thread.

#include <cstdint>

#include "absl/status/statusor.h"
#include "engine/model/model_config.h"
#include "engine/options.h"
#include "engine/pool/slot_layout.h"
#include "engine/types.h"

namespace mayfly {

// The account without its rows. `matrix_bytes`: bytes of an element that layers read and write;
// `process_bytes`: what the process held before the weights were loaded; `weight_bytes`: the model.
MemoryAccount PlanMemory(const ModelConfig& model, const SlotLayout& layout,
                         const EngineOptions& options, int matrix_bytes, uint64_t process_bytes,
                         uint64_t weight_bytes);

// Rows that the options ask for, or that fit the budget (at most kMostRows). ResourceExhausted,
// naming the missing bytes, when the budget cannot hold them.
absl::StatusOr<int32_t> CountRows(const EngineOptions& options, const MemoryAccount& account,
                                  uint64_t row_bytes);

inline constexpr int32_t kMostRows = 4096;

// Tokens whose logits exist at a time where many are scored or trained on (train/loss.h). Of a
// 50,000-token vocabulary these are 25 MB of bfloat16: large enough for efficient products.
inline constexpr int64_t kLogitBlockTokens = 256;

// Bytes of this process in memory now; 0 where the system does not say.
uint64_t ResidentBytes();

// Lets all threads allocate from one heap, from now on: what one has freed another takes, where a
// heap a thread would keep the free memory of the largest step beside that of the largest update.
void ShareOneHeap();
// Gives the system back what was freed: after loading, which needs much that is then not needed.
void ReturnFreeMemory();

}  // namespace mayfly
