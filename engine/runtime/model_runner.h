#pragma once

// Turns the slices of a step into tensors and runs the model on them, all rows in one forward pass;
// or, where a row's bits may not depend on its neighbours, as few passes as that allows. Owned by
// the engine loop; its thread.

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <ATen/ATen.h>

#include "engine/model/causal_lm.h"
#include "engine/pool/kv_pool.h"
#include "engine/runtime/decode_runner.h"
#include "engine/types.h"

namespace mayfly {

// One row's part of a step.
struct RunSlice {
  int64_t row = 0;
  int64_t row_begin = 0;
  std::span<const TokenId> tokens;
  // Null: the base model.
  const AdapterView* adapter = nullptr;
  // The logits after the last token are wanted.
  bool want_logits = false;
  // Targets of the newest hidden states: the last targets.size() tokens of this slice predict them.
  std::span<const TokenId> targets;
  // As in ForwardSegment.
  int32_t first_layer = 0;
  bool resumes = false;
};

struct RunOutput {
  // [vocabulary] fp32 on the host, its log-sum-exp beside it; undefined unless wanted.
  at::Tensor logits;
  float log_sum_exp = 0;
  // One a target, nats.
  std::vector<float> logprobs;
};

class ModelRunner {
 public:
  // `separate`: a slice of several tokens gets a pass of its own, and single tokens run together in
  // products whose rows do not depend on how many they are (cpu::Kernels::linear).
  ModelRunner(const CausalLm* model, const KvPool* kv, bool separate = false)
      : model_(model),
        kv_(kv),
        separate_(separate),
        decode_(std::make_unique<DecodeRunner>(model, kv)) {}

  // One output a slice; logits are valid until the next call. Throws what libtorch throws.
  std::vector<RunOutput> Run(const std::vector<RunSlice>& slices) const;

 private:
  // Indices of slices that share a forward pass.
  std::vector<std::vector<size_t>> Passes(const std::vector<RunSlice>& slices) const;
  void RunTogether(const std::vector<RunSlice>& slices, const std::vector<size_t>& pass,
                   std::vector<RunOutput>* outputs) const;

  const CausalLm* const model_;
  const KvPool* const kv_;
  const bool separate_;
  const std::unique_ptr<DecodeRunner> decode_;
};

}  // namespace mayfly
