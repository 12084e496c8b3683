#include "engine/pool/slot_allocator.h"

#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace mayfly {
namespace {

void ExpectCounts(const SlotAllocator& slots, int32_t free, int32_t active, int32_t closing) {
  EXPECT_EQ(slots.count(SlotState::kFree), free);
  EXPECT_EQ(slots.count(SlotState::kActive), active);
  EXPECT_EQ(slots.count(SlotState::kClosing), closing);
}

TEST(SlotAllocatorTest, EveryRowIsGivenOnceAndThenNone) {
  SlotAllocator slots(3);
  ExpectCounts(slots, 3, 0, 0);
  for (int32_t row = 0; row < 3; ++row) EXPECT_EQ(slots.Take()->row, row);
  EXPECT_FALSE(slots.Take().has_value());
  ExpectCounts(slots, 0, 3, 0);
}

TEST(SlotAllocatorTest, AnAllocatorWithoutRowsGivesNone) {
  SlotAllocator slots(0);
  EXPECT_FALSE(slots.Take().has_value());
}

TEST(SlotAllocatorTest, ARowComesBackUnderANewGenerationAndOldHandlesAreRefused) {
  SlotAllocator slots(1);
  const RowHandle first = *slots.Take();
  slots.Release(first);
  EXPECT_FALSE(slots.Owns(first));
  const RowHandle second = *slots.Take();
  EXPECT_EQ(second.row, first.row);
  EXPECT_NE(second.generation, first.generation);
  EXPECT_FALSE(slots.Owns(first));
  EXPECT_TRUE(slots.Owns(second));
}

TEST(SlotAllocatorTest, AClosingRowIsStillOwnedAndNotGivenAway) {
  SlotAllocator slots(1);
  const RowHandle handle = *slots.Take();
  slots.MarkClosing(handle);
  ExpectCounts(slots, 0, 0, 1);
  EXPECT_TRUE(slots.Owns(handle));
  EXPECT_FALSE(slots.Take().has_value());
  slots.Release(handle);
  ExpectCounts(slots, 1, 0, 0);
}

TEST(SlotAllocatorTest, TheLowestFreeRowIsGivenFirst) {
  SlotAllocator slots(3);
  std::vector<RowHandle> handles;
  for (int i = 0; i < 3; ++i) handles.push_back(*slots.Take());
  slots.Release(handles[2]);
  slots.Release(handles[0]);
  EXPECT_EQ(slots.Take()->row, 0);
  EXPECT_EQ(slots.Take()->row, 2);
}

TEST(SlotAllocatorTest, HandlesOfRowsThatAreNoneAreNotOwned) {
  SlotAllocator slots(2);
  EXPECT_FALSE(slots.Owns(RowHandle{}));
  EXPECT_FALSE(slots.Owns({2, 1}));
  EXPECT_FALSE(slots.Owns({0, 0}));
  EXPECT_FALSE(slots.Owns({0, 1}));
}

TEST(SlotAllocatorDeathTest, ReleasingTwiceIsOurMistake) {
  SlotAllocator slots(1);
  const RowHandle handle = *slots.Take();
  slots.Release(handle);
  EXPECT_DEATH(slots.Release(handle), "broken invariant");
  EXPECT_DEATH(slots.MarkClosing(handle), "broken invariant");
}

TEST(SlotAllocatorTest, AnyOrderOfTakingAndReleasingKeepsTheBooks) {
  constexpr int32_t kRows = 5;
  SlotAllocator slots(kRows);
  std::vector<RowHandle> held, gone;
  std::mt19937 random(7);
  for (int step = 0; step < 500; ++step) {
    if (held.empty() || random() % 2 == 0) {
      const std::optional<RowHandle> taken = slots.Take();
      EXPECT_EQ(taken.has_value(), static_cast<int32_t>(held.size()) < kRows);
      if (taken) held.push_back(*taken);
    } else {
      const auto it = held.begin() + static_cast<ptrdiff_t>(random() % held.size());
      slots.Release(*it);
      gone.push_back(*it);
      held.erase(it);
    }
    const int32_t active = static_cast<int32_t>(held.size());
    ExpectCounts(slots, kRows - active, active, 0);
    for (const RowHandle& handle : held) EXPECT_TRUE(slots.Owns(handle));
    for (const RowHandle& handle : gone) EXPECT_FALSE(slots.Owns(handle));
  }
}

}  // namespace
}  // namespace mayfly
