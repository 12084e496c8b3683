#pragma once

// Adapters and optimizer state of every row, allocated once: two copies of the serving weights (the
// active one, which steps read, and its shadow, which an update writes), fp32 masters, both Adam
// moments, and one fp32 copy to roll back to. Each is one [rows, elements] tensor whose rows follow
// the SlotLayout, but both serving copies share one: an active copy is a row of it, whichever of
// the two it is. Owned by the engine loop; an update owns all of a row but its active copy until
// its result is back.

#include <cstdint>
#include <vector>

#include <ATen/ATen.h>

#include "engine/device/numerics.h"
#include "engine/model/layers/lora_linear.h"
#include "engine/pool/slot_layout.h"

namespace mayfly {

// What an update reads and writes of one row; each [elements].
struct AdapterState {
  at::Tensor serving;     // the active copy, weights' type
  at::Tensor shadow;      // the other one
  at::Tensor master;      // fp32
  at::Tensor moment1;     // fp32
  at::Tensor moment2;     // fp32
  at::Tensor checkpoint;  // fp32
};

// The used parts of a row alone; from, to, row: [elements], types may differ.
void CopySpans(const std::vector<Span>& spans, const at::Tensor& from, const at::Tensor& to);
void ZeroSpans(const std::vector<Span>& spans, const at::Tensor& row);

class AdapterPool {
 public:
  AdapterPool(const SlotLayout& layout, const Numerics& numerics, int32_t rows);

  // A fresh adapter: A Kaiming-uniform as PEFT draws it (U(-1/sqrt(in), 1/sqrt(in))), B and the
  // moments zero, and the checkpoint of the same. REQUIRES: the row is zero.
  void Initialize(int64_t row, const AdapterSpec& spec);
  AdapterState State(int64_t row) const;
  // What the forward pass reads.
  AdapterView Serving(int64_t row, const AdapterSpec& spec) const;
  // Copies the masters to the active copy: where no step can be reading it.
  void Publish(int64_t row, const AdapterSpec& spec);
  // Makes the shadow the active copy. Views of the row must be taken anew.
  void Flip(int64_t row) { active_[static_cast<size_t>(row)] ^= 1; }
  // Keeps the masters as the checkpoint.
  void SaveCheckpoint(int64_t row, const AdapterSpec& spec);
  // Takes the masters from the checkpoint, publishes them, and starts the moments afresh.
  void RestoreCheckpoint(int64_t row, const AdapterSpec& spec);

  void Zero(int64_t row, const AdapterSpec& spec);
  bool IsZero(int64_t row) const;

  const SlotLayout& layout() const { return layout_; }

 private:
  at::Tensor Active(int64_t row) const { return serving_[active_[static_cast<size_t>(row)]][row]; }
  at::Tensor Shadow(int64_t row) const {
    return serving_[active_[static_cast<size_t>(row)] ^ 1][row];
  }

  const SlotLayout& layout_;  // outlives the pool
  // Which of the two copies each row serves from.
  std::vector<uint8_t> active_;
  at::Tensor serving_;  // [2, rows, elements]
  at::Tensor master_;
  at::Tensor moment1_;
  at::Tensor moment2_;
  at::Tensor checkpoint_;
};

}  // namespace mayfly
