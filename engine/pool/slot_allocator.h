#pragma once

// Which rows are free. Counts only; the memory is the pools'. Owned by the engine loop and used on
// its thread.

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/types.h"

namespace mayfly {

enum class SlotState { kFree, kActive, kClosing };

class SlotAllocator {
 public:
  explicit SlotAllocator(int32_t rows);

  // The lowest free row under a new generation, or nothing.
  std::optional<RowHandle> Take();
  // Whether the handle still owns its row.
  bool Owns(RowHandle handle) const;
  // The row is being emptied; it still belongs to its owner. REQUIRES: Owns(handle).
  void MarkClosing(RowHandle handle);
  // REQUIRES: Owns(handle), and the row's memory is zero.
  void Release(RowHandle handle);

  int32_t rows() const { return static_cast<int32_t>(slots_.size()); }
  int32_t count(SlotState state) const;

 private:
  struct Slot {
    SlotState state = SlotState::kFree;
    uint64_t generation = 0;
  };
  std::vector<Slot> slots_;
};

}  // namespace mayfly
