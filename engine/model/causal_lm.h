#pragma once

// A decoder-only language model: immutable weights and const functions; all state is passed in. Any
// thread, as long as no two calls write the same row.

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include <ATen/ATen.h>

#include "engine/model/layers/decoder_layer.h"
#include "engine/model/model_config.h"
#include "engine/pool/kv_pool.h"
#include "engine/types.h"

namespace mayfly {

// Ids as models take them: [n] int64.
inline at::Tensor TokenTensor(std::span<const TokenId> ids, at::Device device) {
  return at::tensor(at::ArrayRef<TokenId>(ids.data(), ids.size()), at::kInt)
      .to(at::kLong)
      .to(device);
}

// The next `tokens` positions of one row.
struct ForwardSegment {
  int64_t row = 0;
  // Position in the row of the first token: so many keys are there already.
  int64_t row_begin = 0;
  int64_t tokens = 0;
  // Null: the base model.
  const AdapterView* adapter = nullptr;
  // Where the pool keeps inputs: the layer before which they are taken. 0: none are.
  int32_t first_layer = 0;
  // Keys and values below first_layer, and the inputs, are there: only the layers from there on are
  // computed. All segments of a pass agree on it, and on first_layer if they do.
  bool resumes = false;
};

// One row's run of tokens in a training pass.
struct TrainingSegment {
  int64_t tokens = 0;
  // Position of the first token in the row. With `prefix` set, the row's keys and values from
  // `prefix_begin` up to there are constants that the tokens attend to; without it there is no
  // prefix.
  int64_t row_begin = 0;
  const KvPool* prefix = nullptr;
  int64_t prefix_row = 0;
  int64_t prefix_begin = 0;
  const AdapterView* adapter = nullptr;
  // Where its gradients are added, fp32; null in a pass that only measures.
  AdapterView* gradients = nullptr;
  LoraDropout dropout;
  // With a prefix: the row's inputs (KvPool) of these tokens are there, so that nothing below the
  // adapter's first layer is computed if the other segments of the batch agree. They have attended
  // to all of the row before them, further back than the prefix may reach.
  bool resumes = false;
};

// Rows that train in one pass. Products with the frozen weights run over all their tokens at once;
// attention, adapters and gradients stay within a row.
struct TrainingBatch {
  at::Tensor tokens;  // [sum of the segments' tokens] int64, segment after segment
  std::vector<TrainingSegment> segments;
  // Asked before every layer, forward and backward; false ends the pass. Null: it goes on.
  std::function<bool()> proceed;
};

struct TrainingTrace {
  TrainingContext context;
  std::vector<LayerTrace> layers;
  at::Tensor last_hidden;  // before the final norm
};

// One new token of each of some rows, as tensors whose places do not depend on how long the rows
// are: a step that a graph can replay.
struct DecodeBatch {
  at::Tensor tokens;     // [n] int64
  at::Tensor rows;       // [n] int64, of the KV pool
  at::Tensor positions;  // [n] int64, in the rows: so many keys are there already
  AdapterRows adapters;
};

class CausalLm {
 public:
  virtual ~CausalLm() = default;

  // tokens: [sum of the segments' tokens] int64, segment after segment. Writes keys and values of
  // the segments' positions and returns the final hidden states, normed: [tokens, hidden], matrix
  // type.
  virtual at::Tensor Forward(const at::Tensor& tokens, const std::vector<ForwardSegment>& segments,
                             const KvPool& kv) const = 0;
  // The same for one token each of some rows: [n, hidden]. Entries may repeat, which writes the
  // same twice.
  virtual at::Tensor Decode(const DecodeBatch& batch, const KvPool& kv) const = 0;

  // Moves positions [from, from + count) of a row's lowest `layers` layers, inputs included, to its
  // front: the window has dropped what was before. REQUIRES: kv.keeps_inputs().
  virtual void MoveLowerToFront(int64_t row, int64_t from, int64_t count, int32_t layers,
                                const KvPool& kv) const = 0;

  // hidden: [n, hidden], matrix type -> [n, vocabulary], matrix type; fp32 for up to kFewRows
  // states.
  virtual at::Tensor Logits(const at::Tensor& hidden) const = 0;
  // dlogits: [n, vocabulary] -> [n, hidden], both in the matrix type.
  virtual at::Tensor LogitsBackward(const at::Tensor& dlogits) const = 0;

  // The hidden states of a training pass, normed: [tokens, hidden], matrix type; undefined when
  // told not to proceed.
  virtual at::Tensor TrainForward(const TrainingBatch& batch, TrainingTrace* trace) const = 0;
  // dhidden: [tokens, hidden]. Adds the adapters' gradients where the segments say. False when told
  // not to proceed. Consumes the trace, layer by layer.
  virtual bool TrainBackward(const at::Tensor& dhidden, const TrainingBatch& batch,
                             TrainingTrace* trace) const = 0;

  // Between the two passes: what each linear module of a layer saw.
  virtual void VisitInputs(const TrainingTrace& trace, int32_t layer,
                           const InputVisitor& visit) const = 0;

  virtual const ModelConfig& config() const = 0;
  virtual const Numerics& numerics() const = 0;
  virtual uint64_t parameters() const = 0;
};

}  // namespace mayfly
