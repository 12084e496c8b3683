#pragma once

// Adapters and optimizer state of every row, allocated once: serving weights, fp32 masters, both
// Adam moments, and one fp32 copy to roll back to. Each is one [rows, elements] tensor whose rows
// follow the SlotLayout. Owned by the engine loop; an update owns the rows of its job until its
// result is back.

#include <cstdint>

#include <ATen/ATen.h>

#include "engine/device/numerics.h"
#include "engine/model/layers/lora_linear.h"
#include "engine/pool/slot_layout.h"

namespace mayfly {

// What an update reads and writes of one row; each [elements].
struct AdapterState {
  at::Tensor serving;     // weights' type
  at::Tensor master;      // fp32
  at::Tensor moment1;     // fp32
  at::Tensor moment2;     // fp32
  at::Tensor checkpoint;  // fp32
};

class AdapterPool {
 public:
  AdapterPool(const SlotLayout& layout, const Numerics& numerics, int32_t rows);

  // A fresh adapter: A Kaiming-uniform as PEFT draws it (U(-1/sqrt(in), 1/sqrt(in))), B and the
  // moments zero, and the checkpoint of the same. REQUIRES: the row is zero.
  void Initialize(int64_t row, const AdapterSpec& spec);
  AdapterState State(int64_t row) const;
  // What the forward pass reads.
  AdapterView Serving(int64_t row, const AdapterSpec& spec) const;
  // Copies the masters to the serving weights.
  void Publish(int64_t row, const AdapterSpec& spec);
  // Keeps the masters as the checkpoint.
  void SaveCheckpoint(int64_t row, const AdapterSpec& spec);
  // Takes the masters from the checkpoint, publishes them, and starts the moments afresh.
  void RestoreCheckpoint(int64_t row, const AdapterSpec& spec);

  void Zero(int64_t row, const AdapterSpec& spec);
  bool IsZero(int64_t row) const;

  const SlotLayout& layout() const { return layout_; }

 private:
  const SlotLayout& layout_;  // outlives the pool
  at::Tensor serving_;
  at::Tensor master_;
  at::Tensor moment1_;
  at::Tensor moment2_;
  at::Tensor checkpoint_;
};

}  // namespace mayfly
