#pragma once

// One layer of the Llama family: attention and a gated MLP, each behind an RMS norm and beside a
// residual. Forward for serving, and forward and backward for training the adapter; the frozen
// weights get no gradient. Const after construction; any thread.

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include <ATen/ATen.h>

#include "engine/device/numerics.h"
#include "engine/model/layers/attention.h"
#include "engine/model/layers/lora_linear.h"
#include "engine/model/layers/rms_norm.h"
#include "engine/model/layers/rotary.h"

namespace mayfly {

// What all layers of one training pass share.
struct TrainingContext {
  // One a row of the batch, in its order.
  std::vector<AdapterSegment> segments;
  at::Tensor positions;  // [tokens] int64
};

// This layer of the keys and values before a segment, [kv_heads, length, head_dim]: constants.
// Undefined: there are none.
struct LayerPrefix {
  at::Tensor keys;
  at::Tensor values;
};

// What a layer remembers between its forward and its backward pass.
struct LayerTrace {
  at::Tensor input;  // [tokens, hidden]
  at::Tensor q_raw;  // before the query norm; undefined without one
  at::Tensor k_raw;
  // One a segment: queries rotated, keys and values of prefix and tokens.
  std::vector<AttentionInput> attention_inputs;
  std::vector<at::Tensor> log_sum_exps;  // [heads, tokens] fp32
  at::Tensor attended;                   // [tokens, heads * head_dim]
  at::Tensor mlp_input;                  // [tokens, hidden], before its norm
  at::Tensor gate_up;                    // [tokens, 2 * intermediate]
};

// Linear modules that read the same input, and that input: [tokens, in], matrix type.
using InputVisitor = std::function<void(const std::vector<Module>& modules, const at::Tensor& x)>;

struct DecoderLayerWeights {
  RmsNorm attention_norm;
  RmsNorm mlp_norm;
  std::optional<RmsNorm> q_norm;
  std::optional<RmsNorm> k_norm;
  LoraLinear qkv;
  LoraLinear o;
  LoraLinear gate_up;
  LoraLinear down;
};

class DecoderLayer {
 public:
  DecoderLayer(const Numerics& numerics, const ModelConfig& config, const Rotary* rotary,
               DecoderLayerWeights weights);

  // x: [tokens, hidden], activations -> the same. `positions`: [tokens] int64, positions in the
  // rows.
  // `keys`, `values`: this layer's of all rows, [rows, kv_heads, window, head_dim]; the segments'
  // positions are written, then read.
  at::Tensor Forward(const at::Tensor& x, const at::Tensor& positions,
                     const std::vector<AttentionSegment>& segments, const at::Tensor& keys,
                     const at::Tensor& values, const std::vector<AdapterSegment>& adapters) const;

  // The same for one token each of some rows, whatever their lengths. keys, values: this layer of
  // all rows, [rows, kv_heads, window, head_dim]; rows: [tokens] int64.
  at::Tensor Decode(const at::Tensor& x, const at::Tensor& positions, const at::Tensor& rows,
                    const at::Tensor& keys, const at::Tensor& values,
                    const std::vector<AdapterSegment>& adapters) const;

  // The same for training, one prefix a segment.
  at::Tensor TrainForward(const at::Tensor& x, const TrainingContext& context,
                          const std::vector<LayerPrefix>& prefixes, LayerTrace* trace) const;

  // dy: [tokens, hidden] -> the gradient with respect to the layer's input (undefined unless
  // `need_dx`). The adapters' gradients are added where the segments say.
  at::Tensor Backward(const at::Tensor& dy, const TrainingContext& context, const LayerTrace& trace,
                      bool need_dx) const;

  // What each linear module saw in the forward pass of a training pass, in their order.
  void VisitInputs(const LayerTrace& trace, const InputVisitor& visit) const;

 private:
  // Views of the fused product, or of its gradient.
  struct Qkv {
    at::Tensor q;  // [tokens, heads, head_dim]
    at::Tensor k;  // [tokens, kv_heads, head_dim]
    at::Tensor v;
  };
  Qkv Split(const at::Tensor& qkv) const;
  // Queries, keys and values, normed and rotated; `trace` keeps what the norms saw.
  Qkv Project(const at::Tensor& x, const at::Tensor& positions,
              const std::vector<AdapterSegment>& adapters, LayerTrace* trace = nullptr) const;
  // Keys or values of a segment, [tokens, kv_heads, head_dim] of the batch, into its row.
  void Store(const at::Tensor& from, const AttentionSegment& segment, const at::Tensor& pool) const;
  at::Tensor AddResidual(const at::Tensor& x, const at::Tensor& y) const;
  at::Tensor Mlp(const at::Tensor& x, const std::vector<AdapterSegment>& adapters) const;
  // Attention of each segment over its own keys.
  void AttendSegments(const Qkv& qkv, const TrainingContext& context,
                      const std::vector<LayerPrefix>& prefixes, LayerTrace* trace) const;
  at::Tensor MlpBackward(const at::Tensor& dy, const TrainingContext& context,
                         const LayerTrace& trace) const;
  at::Tensor AttentionBackward(const at::Tensor& dy, const TrainingContext& context,
                               const LayerTrace& trace, bool need_dx) const;

  const Numerics numerics_;
  const int64_t heads_;
  const int64_t kv_heads_;
  const int64_t head_dim_;
  const Rotary* const rotary_;
  const DecoderLayerWeights weights_;
};

// silu(gate) * up. gate_up: [tokens, 2 * width], the gate first, matrix type -> [tokens, width].
at::Tensor SiluMul(const Numerics& numerics, const at::Tensor& gate_up);
// ds: [tokens, width] -> the gradient with respect to gate_up.
at::Tensor SiluMulBackward(const Numerics& numerics, const at::Tensor& gate_up,
                           const at::Tensor& ds);

}  // namespace mayfly
