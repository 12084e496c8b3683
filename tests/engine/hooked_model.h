#pragma once

// A model that calls a hook before each pass, after each forward one, and with its logits: the
// place where a test holds the engine, counts, throws, or spoils numbers. Hooks are set while
// nothing runs; they are called on the thread of the pass.

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "engine/model/causal_lm.h"

namespace mayfly {

struct ModelHooks {
  std::function<void(const std::vector<ForwardSegment>&)> forward;
  std::function<void(const std::vector<ForwardSegment>&)> forward_done;
  std::function<void(const TrainingBatch&)> train_forward;
  std::function<void(const TrainingBatch&)> train_backward;
  std::function<void(at::Tensor&)> logits;
};

class HookedModel final : public CausalLm {
 public:
  explicit HookedModel(std::unique_ptr<CausalLm> model) : model_(std::move(model)) {}

  ModelHooks& hooks() { return hooks_; }

  at::Tensor Forward(const at::Tensor& tokens, const std::vector<ForwardSegment>& segments,
                     const KvPool& kv) const override {
    if (hooks_.forward) hooks_.forward(segments);
    at::Tensor hidden = model_->Forward(tokens, segments, kv);
    if (hooks_.forward_done) hooks_.forward_done(segments);
    return hidden;
  }
  void MoveLowerToFront(int64_t row, int64_t from, int64_t count, int32_t layers,
                        const KvPool& kv) const override {
    model_->MoveLowerToFront(row, from, count, layers, kv);
  }
  at::Tensor Decode(const DecodeBatch& batch, const KvPool& kv) const override {
    return model_->Decode(batch, kv);
  }
  at::Tensor Logits(const at::Tensor& hidden) const override {
    at::Tensor logits = model_->Logits(hidden);
    if (hooks_.logits) hooks_.logits(logits);
    return logits;
  }
  at::Tensor LogitsBackward(const at::Tensor& dlogits) const override {
    return model_->LogitsBackward(dlogits);
  }
  at::Tensor TrainForward(const TrainingBatch& batch, TrainingTrace* trace) const override {
    if (hooks_.train_forward) hooks_.train_forward(batch);
    return model_->TrainForward(batch, trace);
  }
  bool TrainBackward(const at::Tensor& dhidden, const TrainingBatch& batch,
                     TrainingTrace* trace) const override {
    if (hooks_.train_backward) hooks_.train_backward(batch);
    return model_->TrainBackward(dhidden, batch, trace);
  }
  void VisitInputs(const TrainingTrace& trace, int32_t layer,
                   const InputVisitor& visit) const override {
    model_->VisitInputs(trace, layer, visit);
  }
  const ModelConfig& config() const override { return model_->config(); }
  const Numerics& numerics() const override { return model_->numerics(); }
  uint64_t parameters() const override { return model_->parameters(); }

 private:
  const std::unique_ptr<CausalLm> model_;
  ModelHooks hooks_;
};

}  // namespace mayfly
