#include "engine/pool/slot_allocator.h"

#include <algorithm>

#include "engine/base/log.h"

namespace mayfly {

SlotAllocator::SlotAllocator(int32_t rows) : slots_(static_cast<size_t>(rows)) {}

std::optional<RowHandle> SlotAllocator::Take() {
  for (size_t row = 0; row < slots_.size(); ++row) {
    Slot& slot = slots_[row];
    if (slot.state != SlotState::kFree) continue;
    slot.state = SlotState::kActive;
    return RowHandle{static_cast<int32_t>(row), ++slot.generation};
  }
  return std::nullopt;
}

bool SlotAllocator::Owns(RowHandle handle) const {
  if (handle.row < 0 || handle.row >= rows()) return false;
  const Slot& slot = slots_[static_cast<size_t>(handle.row)];
  return slot.state != SlotState::kFree && slot.generation == handle.generation;
}

void SlotAllocator::MarkClosing(RowHandle handle) {
  MAYFLY_CHECK(Owns(handle));
  slots_[static_cast<size_t>(handle.row)].state = SlotState::kClosing;
}

void SlotAllocator::Release(RowHandle handle) {
  MAYFLY_CHECK(Owns(handle));
  slots_[static_cast<size_t>(handle.row)].state = SlotState::kFree;
}

int32_t SlotAllocator::count(SlotState state) const {
  return static_cast<int32_t>(std::count_if(
      slots_.begin(), slots_.end(), [state](const Slot& slot) { return slot.state == state; }));
}

}  // namespace mayfly
