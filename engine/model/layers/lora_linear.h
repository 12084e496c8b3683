#pragma once

// One or several linear modules that read the same input, fused into one frozen product, and the
// adapters of the rows beside it (Hu et al., arXiv 2106.09685):
//
//   y_m = W_m x + (alpha / r) B_m A_m x    for each module m, adapters chosen by row
//
// The adapter is never merged into W. Const after construction; any thread.

#include <cstdint>
#include <vector>

#include <ATen/ATen.h>

#include "engine/device/device_ops.h"
#include "engine/device/numerics.h"
#include "engine/model/layers/linear.h"
#include "engine/options.h"
#include "engine/pool/slot_layout.h"

namespace mayfly {

// One adapter's serving weights, or its gradients: a row of a pool seen through the layout.
struct AdapterView {
  const SlotLayout* layout = nullptr;
  AdapterSpec spec;
  // [layout->adapter_elements()]: serving weights, or fp32 where this views gradients.
  at::Tensor elements;

  bool Adapts(int32_t layer, Module module) const {
    return spec.enabled() && layer >= spec.first_layer && IsTarget(spec.target_modules, module);
  }
  at::Tensor A(int32_t layer, Module module) const { return Part(layout->pair(layer, module).a); }
  // Transposed: [rank, out].
  at::Tensor B(int32_t layer, Module module) const { return Part(layout->pair(layer, module).b); }

 private:
  at::Tensor Part(const AdapterTensor& tensor) const {
    return elements.narrow(0, tensor.offset, int64_t{spec.rank} * tensor.width)
        .view({spec.rank, tensor.width});
  }
};

// Which inputs a training pass hides from A, a module at a time: PEFT's LoRA dropout. The same
// masks come out whenever they are asked for.
class LoraDropout {
 public:
  LoraDropout() = default;
  LoraDropout(double probability, uint64_t seed) : probability_(probability), seed_(seed) {}

  bool active() const { return probability_ > 0; }
  // x with its dropped elements zero and the others scaled by 1 / (1 - p); x itself when inactive.
  at::Tensor Apply(const at::Tensor& x, int32_t layer, Module module) const;

 private:
  double probability_ = 0;
  uint64_t seed_ = 0;
};

// Tokens [begin, begin + tokens) of a batch belong to one row.
struct AdapterSegment {
  int64_t begin = 0;
  int64_t tokens = 0;
  // Null: no adapter.
  const AdapterView* adapter = nullptr;
  // Of a training pass: where the adapter's gradients are added (fp32; null: nowhere), and its
  // dropout.
  AdapterView* gradients = nullptr;
  LoraDropout dropout = {};
  // In place of `adapter`, in a serving pass: the adapters of several such segments together, over
  // the whole batch.
  const AdapterRows* rows = nullptr;
};

class LoraLinear {
 public:
  LoraLinear() = default;
  // `base` holds the modules' outputs one after the other.
  LoraLinear(const Numerics& numerics, int32_t layer, Linear base, std::vector<Module> modules,
             const SlotLayout& layout);

  // x: [tokens, in] -> [tokens, sum of outs], matrix type. Segments do not overlap.
  at::Tensor Forward(const at::Tensor& x, const std::vector<AdapterSegment>& segments) const;

  // The gradient with respect to x (undefined unless `need_dx`); those of the segments' adapters
  // are added where they say, each from its own tokens alone. x: as in the forward pass; dy:
  // [tokens, sum of outs]; both in the matrix type.
  at::Tensor Backward(const at::Tensor& x, const at::Tensor& dy,
                      const std::vector<AdapterSegment>& segments, bool need_dx) const;

  std::vector<Module> modules() const;

 private:
  struct Output {
    Module module;
    int64_t begin;
    int64_t width;
  };
  void AddAdapter(const at::Tensor& x, const AdapterSegment& segment, at::Tensor& y) const;
  void BackwardAdapter(const at::Tensor& x, const at::Tensor& dy, const AdapterSegment& segment,
                       const at::Tensor& dx) const;
  // One module of a segment of at most kFewRows tokens.
  void AddAdapterFewRows(const at::Tensor& x, const AdapterSegment& segment, const Output& output,
                         const at::Tensor& y) const;

  Numerics numerics_;
  int32_t layer_ = 0;
  Linear base_;
  std::vector<Output> outputs_;
  std::vector<AdapterPlace> places_;  // of the same modules
};

}  // namespace mayfly
