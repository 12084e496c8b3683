#include "engine/model/llama.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/model/layers/adapter_group.h"

namespace mayfly {
namespace {

// Takes a model's tensors by name and remembers the first failure, so that the code that builds a
// layer reads as the layer does.
class Loader {
 public:
  Loader(const ModelConfig& config, const Numerics& numerics, const SlotLayout& layout,
         Checkpoint checkpoint)
      : config_(config), numerics_(numerics), layout_(layout), checkpoint_(std::move(checkpoint)) {}

  at::Tensor Take(const std::string& name, at::IntArrayRef shape) {
    if (!status_.ok()) return {};
    absl::StatusOr<at::Tensor> tensor = checkpoint_.Take(name, shape, numerics_.WeightOptions());
    if (!tensor.ok()) {
      status_ = tensor.status();
      return {};
    }
    parameters_ += static_cast<uint64_t>(tensor->numel());
    return *std::move(tensor);
  }

  RmsNorm Norm(const std::string& name, int64_t width) {
    const at::Tensor weight = Take(name + ".weight", {width});
    return status_.ok() ? RmsNorm(numerics_, weight, config_.rms_norm_eps) : RmsNorm();
  }

  struct Part {
    Module module;
    bool bias;
  };
  // The modules that read the same input, as one product.
  LoraLinear Fused(int32_t layer, const std::string& prefix, const std::vector<Part>& parts) {
    std::vector<at::Tensor> weights, biases;
    std::vector<Module> modules;
    for (const auto& [module, bias] : parts) {
      const ModuleShape& shape = layout_.shape(module);
      const std::string name = absl::StrCat(prefix, ModuleName(module));
      weights.push_back(Take(name + ".weight", {shape.out, shape.in}));
      if (bias) biases.push_back(Take(name + ".bias", {shape.out}));
      modules.push_back(module);
    }
    if (!status_.ok()) return {};
    Linear base(numerics_, at::cat(weights, 0), biases.empty() ? at::Tensor() : at::cat(biases, 0));
    return LoraLinear(numerics_, layer, std::move(base), std::move(modules), layout_);
  }

  DecoderLayerWeights Layer(int32_t layer) {
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    const std::string attention = prefix + "self_attn.", mlp = prefix + "mlp.";
    const bool bias = config_.attention_bias, mlp_bias = config_.mlp_bias;
    DecoderLayerWeights weights;
    weights.attention_norm = Norm(prefix + "input_layernorm", config_.hidden);
    weights.mlp_norm = Norm(prefix + "post_attention_layernorm", config_.hidden);
    if (config_.qk_norm) {
      weights.q_norm = Norm(attention + "q_norm", config_.head_dim);
      weights.k_norm = Norm(attention + "k_norm", config_.head_dim);
    }
    weights.qkv =
        Fused(layer, attention, {{Module::kQ, bias}, {Module::kK, bias}, {Module::kV, bias}});
    weights.o = Fused(layer, attention, {{Module::kO, config_.attention_o_bias}});
    weights.gate_up = Fused(layer, mlp, {{Module::kGate, mlp_bias}, {Module::kUp, mlp_bias}});
    weights.down = Fused(layer, mlp, {{Module::kDown, mlp_bias}});
    return weights;
  }

  // Tensors that nobody asked for change the result if they are real weights, so they are refused;
  // a few are known to be copies.
  absl::Status CheckNothingLeft() {
    std::vector<std::string> extra;
    for (const std::string& name : checkpoint_.Unused()) {
      const bool tied_copy = config_.tied_embeddings && name == "lm_head.weight";
      const bool rope_table = name.ends_with("rotary_emb.inv_freq");
      if (!tied_copy && !rope_table) extra.push_back(name);
    }
    if (extra.empty()) return absl::OkStatus();
    const size_t shown = std::min<size_t>(extra.size(), 3);
    return absl::InvalidArgumentError(absl::StrCat(
        "the checkpoint has ", extra.size(), " tensors that ", config_.architecture,
        " does not have: ",
        absl::StrJoin(extra.begin(), extra.begin() + static_cast<ptrdiff_t>(shown), ", "),
        extra.size() > shown ? ", ..." : ""));
  }

  const absl::Status& status() const { return status_; }
  uint64_t parameters() const { return parameters_; }

 private:
  const ModelConfig& config_;
  const Numerics& numerics_;
  const SlotLayout& layout_;
  Checkpoint checkpoint_;
  absl::Status status_;
  uint64_t parameters_ = 0;
};

bool Proceeds(const TrainingBatch& batch) { return !batch.proceed || batch.proceed(); }

// Where each token of a batch lies in its row.
template <typename Segment>
at::Tensor Positions(const std::vector<Segment>& segments, at::Device device) {
  std::vector<int64_t> positions;
  for (const Segment& segment : segments) {
    for (int64_t i = 0; i < segment.tokens; ++i) positions.push_back(segment.row_begin + i);
  }
  return at::tensor(positions, at::kLong).to(device);
}

TrainingContext MakeContext(const TrainingBatch& batch, at::Device device) {
  TrainingContext context;
  int64_t begin = 0;
  for (const TrainingSegment& segment : batch.segments) {
    context.segments.push_back(
        {begin, segment.tokens, segment.adapter, segment.gradients, segment.dropout});
    begin += segment.tokens;
  }
  context.positions = Positions(batch.segments, device);
  return context;
}

std::vector<LayerPrefix> PrefixesOf(const TrainingBatch& batch, int64_t layer) {
  std::vector<LayerPrefix> prefixes;
  for (const TrainingSegment& segment : batch.segments) {
    LayerPrefix& prefix = prefixes.emplace_back();
    if (segment.prefix == nullptr) continue;
    const int64_t length = segment.row_begin - segment.prefix_begin;
    const auto part = [&](const at::Tensor& x) {
      return x.narrow(1, segment.prefix_begin, length);
    };
    prefix = {part(segment.prefix->Keys(segment.prefix_row, layer)),
              part(segment.prefix->Values(segment.prefix_row, layer))};
  }
  return prefixes;
}

// Below the lowest adapted layer nothing is learned.
size_t LowestLayer(const TrainingBatch& batch) {
  int32_t lowest = batch.segments.front().adapter->spec.first_layer;
  for (const TrainingSegment& segment : batch.segments) {
    lowest = std::min(lowest, segment.adapter->spec.first_layer);
  }
  return static_cast<size_t>(lowest);
}

// The layer from which a training pass computes; the one below which all its rows resume.
size_t FirstComputed(const TrainingBatch& batch) {
  const int32_t layer = batch.segments.front().adapter->spec.first_layer;
  for (const TrainingSegment& segment : batch.segments) {
    if (!segment.resumes || segment.adapter->spec.first_layer != layer) return 0;
  }
  return static_cast<size_t>(layer);
}

at::Tensor KeptInputs(const TrainingBatch& batch) {
  std::vector<at::Tensor> inputs;
  for (const TrainingSegment& segment : batch.segments) {
    inputs.push_back(
        segment.prefix->Inputs(segment.prefix_row).narrow(0, segment.row_begin, segment.tokens));
  }
  return at::cat(inputs);
}

at::Tensor KeptInputs(const std::vector<ForwardSegment>& segments, const KvPool& kv) {
  std::vector<at::Tensor> inputs;
  for (const ForwardSegment& segment : segments) {
    inputs.push_back(kv.Inputs(segment.row).narrow(0, segment.row_begin, segment.tokens));
  }
  return at::cat(inputs);
}

// Before `layer`: keeps the inputs of the segments whose first layer it is.
void KeepInputs(const at::Tensor& x, size_t layer, const std::vector<ForwardSegment>& segments,
                const KvPool& kv) {
  int64_t begin = 0;
  for (const ForwardSegment& segment : segments) {
    if (!segment.resumes && layer > 0 && static_cast<size_t>(segment.first_layer) == layer) {
      kv.Inputs(segment.row)
          .narrow(0, segment.row_begin, segment.tokens)
          .copy_(x.narrow(0, begin, segment.tokens));
    }
    begin += segment.tokens;
  }
}

}  // namespace

Llama::Llama(const ModelConfig& config, const Numerics& numerics, int32_t window_tokens)
    : config_(config),
      numerics_(numerics),
      rotary_(numerics, config.rope, config.head_dim, window_tokens) {}

absl::StatusOr<std::unique_ptr<CausalLm>> Llama::Load(const ModelConfig& config,
                                                      const Numerics& numerics,
                                                      const SlotLayout& layout,
                                                      int32_t window_tokens,
                                                      Checkpoint checkpoint) {
  auto model = std::unique_ptr<Llama>(new Llama(config, numerics, window_tokens));
  Loader loader(config, numerics, layout, std::move(checkpoint));
  model->embedding_ = loader.Take("model.embed_tokens.weight", {config.vocabulary, config.hidden});
  for (int32_t layer = 0; layer < config.layers; ++layer) {
    DecoderLayerWeights weights = loader.Layer(layer);
    MAYFLY_RETURN_IF_ERROR(loader.status());
    model->layers_.emplace_back(numerics, config, &model->rotary_, std::move(weights));
  }
  model->final_norm_ = loader.Norm("model.norm", config.hidden);
  const at::Tensor head = config.tied_embeddings
                              ? model->embedding_
                              : loader.Take("lm_head.weight", {config.vocabulary, config.hidden});
  MAYFLY_RETURN_IF_ERROR(loader.status());
  MAYFLY_RETURN_IF_ERROR(loader.CheckNothingLeft());
  model->lm_head_ = Linear(numerics, head);
  model->parameters_ = loader.parameters();
  return model;
}

at::Tensor Llama::Embed(const at::Tensor& tokens) const {
  return embedding_.index_select(0, tokens).to(numerics_.activations);
}

at::Tensor Llama::Forward(const at::Tensor& tokens, const std::vector<ForwardSegment>& segments,
                          const KvPool& kv) const {
  const at::Tensor positions = Positions(segments, numerics_.device);
  std::vector<AdapterSegment> adapters;
  int64_t batch_begin = 0;
  std::vector<AttentionSegment> places;
  for (const ForwardSegment& segment : segments) {
    adapters.push_back({batch_begin, segment.tokens, segment.adapter});
    places.push_back({batch_begin, segment.tokens, segment.row, segment.row_begin});
    batch_begin += segment.tokens;
  }
  const bool resumes = segments.front().resumes;
  AdapterRows rows;
  GroupOneTokenSegments(numerics_, batch_begin, &adapters, &rows);
  at::Tensor x = resumes ? KeptInputs(segments, kv) : Embed(tokens);
  const size_t first = resumes ? static_cast<size_t>(segments.front().first_layer) : 0;
  for (size_t layer = first; layer < layers_.size(); ++layer) {
    if (kv.keeps_inputs()) KeepInputs(x, layer, segments, kv);
    const int64_t index = static_cast<int64_t>(layer);
    x = layers_[layer].Forward(x, positions, places, kv.LayerKeys(index), kv.LayerValues(index),
                               adapters);
  }
  return final_norm_.Forward(x);
}

void Llama::MoveLowerToFront(int64_t row, int64_t from, int64_t count, int32_t layers,
                             const KvPool& kv) const {
  for (int64_t layer = 0; layer < layers; ++layer) {
    const at::Tensor keys = kv.Keys(row, layer), values = kv.Values(row, layer);
    const at::Tensor shifted = rotary_.Shift(keys.narrow(1, from, count).transpose(0, 1), from);
    keys.narrow(1, 0, count).copy_(shifted.transpose(0, 1));
    values.narrow(1, 0, count).copy_(values.narrow(1, from, count).clone());
  }
  const at::Tensor inputs = kv.Inputs(row);
  inputs.narrow(0, 0, count).copy_(inputs.narrow(0, from, count).clone());
}

at::Tensor Llama::Decode(const DecodeBatch& batch, const KvPool& kv) const {
  const std::vector<AdapterSegment> adapters = {
      {.tokens = batch.tokens.size(0), .rows = &batch.adapters}};
  at::Tensor x = Embed(batch.tokens);
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const int64_t index = static_cast<int64_t>(layer);
    x = layers_[layer].Decode(x, batch.positions, batch.rows, kv.LayerKeys(index),
                              kv.LayerValues(index), adapters);
  }
  return final_norm_.Forward(x);
}

at::Tensor Llama::Logits(const at::Tensor& hidden) const {
  // Few rows are sampled from, and one product keeps them exact; many are scored.
  return hidden.size(0) <= kFewRows ? lm_head_.ForwardFloat(hidden) : lm_head_.Forward(hidden);
}

at::Tensor Llama::LogitsBackward(const at::Tensor& dlogits) const {
  return lm_head_.BackwardInput(dlogits);
}

at::Tensor Llama::TrainForward(const TrainingBatch& batch, TrainingTrace* trace) const {
  trace->context = MakeContext(batch, numerics_.device);
  trace->layers.assign(layers_.size(), {});
  const size_t first = FirstComputed(batch);
  at::Tensor x = first > 0 ? KeptInputs(batch) : Embed(batch.tokens);
  for (size_t layer = first; layer < layers_.size(); ++layer) {
    if (!Proceeds(batch)) return {};
    x = layers_[layer].TrainForward(
        x, trace->context, PrefixesOf(batch, static_cast<int64_t>(layer)), &trace->layers[layer]);
  }
  trace->last_hidden = x;
  return final_norm_.Forward(x);
}

bool Llama::TrainBackward(const at::Tensor& dhidden, const TrainingBatch& batch,
                          TrainingTrace* trace) const {
  at::Tensor dx = final_norm_.Backward(trace->last_hidden, dhidden);
  const size_t lowest = LowestLayer(batch);
  for (size_t layer = layers_.size(); layer-- > lowest;) {
    if (!Proceeds(batch)) return false;
    dx = layers_[layer].Backward(dx, trace->context, trace->layers[layer],
                                 /*need_dx=*/layer > lowest);
    trace->layers[layer] = {};
  }
  return true;
}

void Llama::VisitInputs(const TrainingTrace& trace, int32_t layer,
                        const InputVisitor& visit) const {
  const size_t index = static_cast<size_t>(layer);
  layers_[index].VisitInputs(trace.layers[index], visit);
}

}  // namespace mayfly
