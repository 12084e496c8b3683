#pragma once

// The Llama family: Llama, Mistral, Qwen2 and Qwen3 differ only in biases, query and key norms,
// tied embeddings and RoPE, which ModelConfig says. Immutable after Load; any thread.

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/model/causal_lm.h"
#include "engine/model/checkpoint.h"
#include "engine/pool/slot_layout.h"

namespace mayfly {

class Llama final : public CausalLm {
 public:
  // INVALID_ARGUMENT when a tensor is missing, misshapen or left over. `layout` outlives the model
  // only until Load returns; `window_tokens`: positions that will be asked for.
  static absl::StatusOr<std::unique_ptr<CausalLm>> Load(const ModelConfig& config,
                                                        const Numerics& numerics,
                                                        const SlotLayout& layout,
                                                        int32_t window_tokens,
                                                        Checkpoint checkpoint);

  at::Tensor Forward(const at::Tensor& tokens, const std::vector<ForwardSegment>& segments,
                     const KvPool& kv) const override;
  void MoveLowerToFront(int64_t row, int64_t from, int64_t count, int32_t layers,
                        const KvPool& kv) const override;
  at::Tensor Decode(const DecodeBatch& batch, const KvPool& kv) const override;
  at::Tensor Logits(const at::Tensor& hidden) const override;
  at::Tensor LogitsBackward(const at::Tensor& dlogits) const override;
  at::Tensor TrainForward(const TrainingBatch& batch, TrainingTrace* trace) const override;
  bool TrainBackward(const at::Tensor& dhidden, const TrainingBatch& batch,
                     TrainingTrace* trace) const override;
  void VisitInputs(const TrainingTrace& trace, int32_t layer,
                   const InputVisitor& visit) const override;
  const ModelConfig& config() const override { return config_; }
  const Numerics& numerics() const override { return numerics_; }
  uint64_t parameters() const override { return parameters_; }

 private:
  Llama(const ModelConfig& config, const Numerics& numerics, int32_t window_tokens);
  at::Tensor Embed(const at::Tensor& tokens) const;

  const ModelConfig config_;
  const Numerics numerics_;
  const Rotary rotary_;
  at::Tensor embedding_;  // [vocabulary, hidden], weights' type
  std::vector<DecoderLayer> layers_;
  RmsNorm final_norm_;
  Linear lm_head_;
  uint64_t parameters_ = 0;
};

}  // namespace mayfly
