#include "engine/model/layers/decoder_layer.h"

#include <utility>

#include <ATen/Parallel.h>

#include "engine/device/cpu/kernels.h"

namespace mayfly {

at::Tensor SiluMul(const at::Tensor& gate_up) {
  const int64_t tokens = gate_up.size(0), width = gate_up.size(1) / 2;
  if (!gate_up.is_cpu() || gate_up.scalar_type() != at::kFloat) {
    return at::silu(gate_up.narrow(1, 0, width)).mul_(gate_up.narrow(1, width, width));
  }
  at::Tensor y = at::empty({tokens, width}, gate_up.options());
  const float* const in = gate_up.const_data_ptr<float>();
  float* const out = y.mutable_data_ptr<float>();
  at::parallel_for(0, tokens, 4, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      cpu::BestKernels().silu_mul(in + token * 2 * width, width, out + token * width);
    }
  });
  return y;
}

at::Tensor SiluMulBackward(const at::Tensor& gate_up, const at::Tensor& ds) {
  const int64_t width = gate_up.size(1) / 2;
  const at::Tensor gate = gate_up.narrow(1, 0, width), up = gate_up.narrow(1, width, width);
  const at::Tensor sigmoid = at::sigmoid(gate);
  const at::Tensor silu = gate * sigmoid;
  // d silu(g) / dg = sigmoid(g) (1 + g (1 - sigmoid(g))) = sigmoid(g) + silu(g) (1 - sigmoid(g))
  const at::Tensor slope = sigmoid + silu * (1 - sigmoid);
  return at::cat({ds * up * slope, ds * silu}, 1);
}

DecoderLayer::DecoderLayer(const Numerics& numerics, const ModelConfig& config, const Rotary* rotary,
                           DecoderLayerWeights weights)
    : numerics_(numerics),
      heads_(config.heads),
      kv_heads_(config.kv_heads),
      head_dim_(config.head_dim),
      rotary_(rotary),
      weights_(std::move(weights)) {}

DecoderLayer::Qkv DecoderLayer::Split(const at::Tensor& qkv) const {
  const int64_t tokens = qkv.size(0), q = heads_ * head_dim_, kv = kv_heads_ * head_dim_;
  return {qkv.narrow(1, 0, q).unflatten(1, {heads_, head_dim_}),
          qkv.narrow(1, q, kv).unflatten(1, {kv_heads_, head_dim_}),
          qkv.narrow(1, q + kv, kv).reshape({tokens, kv_heads_, head_dim_})};
}

at::Tensor DecoderLayer::Mlp(const at::Tensor& x, const std::vector<AdapterSegment>& adapters) const {
  const at::Tensor gate_up = weights_.gate_up.Forward(weights_.mlp_norm.Forward(x), adapters, {});
  return weights_.down.Forward(SiluMul(gate_up), adapters, {}).add_(x);
}

at::Tensor DecoderLayer::Forward(const at::Tensor& x, const at::Tensor& positions,
                                 const std::vector<LayerSegment>& segments,
                                 const std::vector<AdapterSegment>& adapters) const {
  Qkv qkv = Split(weights_.qkv.Forward(weights_.attention_norm.Forward(x), adapters, {}));
  if (weights_.q_norm) {
    qkv.q = weights_.q_norm->Forward(qkv.q);
    qkv.k = weights_.k_norm->Forward(qkv.k);
  }
  rotary_->Rotate(qkv.q, positions);
  rotary_->Rotate(qkv.k, positions);
  at::Tensor attended = at::empty({x.size(0), heads_ * head_dim_}, x.options());
  for (const LayerSegment& segment : segments) {
    const auto part = [&](const at::Tensor& t) {
      return t.narrow(0, segment.batch_begin, segment.tokens);
    };
    const int64_t end = segment.row_begin + segment.tokens;
    segment.keys.narrow(1, segment.row_begin, segment.tokens).copy_(part(qkv.k).transpose(0, 1));
    segment.values.narrow(1, segment.row_begin, segment.tokens).copy_(part(qkv.v).transpose(0, 1));
    part(attended).copy_(CausalAttention(numerics_, part(qkv.q), segment.keys.narrow(1, 0, end),
                                         segment.values.narrow(1, 0, end), nullptr));
  }
  return Mlp(weights_.o.Forward(attended, adapters, {}).add_(x), adapters);
}

at::Tensor DecoderLayer::TrainForward(const at::Tensor& x, const TrainingContext& context,
                                      const at::Tensor& prefix_keys,
                                      const at::Tensor& prefix_values, LayerTrace* trace) const {
  const std::vector<AdapterSegment> all = {{0, x.size(0), context.adapter}};
  trace->input = x;
  Qkv qkv = Split(weights_.qkv.Forward(weights_.attention_norm.Forward(x), all, context.dropout));
  if (weights_.q_norm) {
    trace->q_raw = qkv.q;
    trace->k_raw = qkv.k;
    qkv.q = weights_.q_norm->Forward(qkv.q);
    qkv.k = weights_.k_norm->Forward(qkv.k);
  }
  rotary_->Rotate(qkv.q, context.positions);
  rotary_->Rotate(qkv.k, context.positions);
  // Through the type that the pool keeps, so that training sees what serving sees.
  const auto with_prefix = [&](const at::Tensor& prefix, const at::Tensor& own) {
    const at::Tensor mine = own.transpose(0, 1).to(numerics_.weights);
    return prefix.defined() ? at::cat({prefix, mine}, 1) : mine;
  };
  trace->q = qkv.q;
  trace->keys = with_prefix(prefix_keys, qkv.k);
  trace->values = with_prefix(prefix_values, qkv.v);
  trace->attended =
      CausalAttention(numerics_, trace->q, trace->keys, trace->values, &trace->attention);
  trace->mlp_input = weights_.o.Forward(trace->attended, all, context.dropout).add_(x);
  trace->gate_up = weights_.gate_up.Forward(weights_.mlp_norm.Forward(trace->mlp_input), all,
                                            context.dropout);
  return weights_.down.Forward(SiluMul(trace->gate_up), all, context.dropout)
      .add_(trace->mlp_input);
}

at::Tensor DecoderLayer::Backward(const at::Tensor& dy, const TrainingContext& context,
                                  const LayerTrace& trace, AdapterView& gradients,
                                  bool need_dx) const {
  const at::Tensor dmlp_input = MlpBackward(dy, context, trace, gradients).add_(dy);
  const at::Tensor dx = AttentionBackward(dmlp_input, context, trace, gradients, need_dx);
  return need_dx ? dx.add(dmlp_input) : at::Tensor();
}

at::Tensor DecoderLayer::MlpBackward(const at::Tensor& dy, const TrainingContext& context,
                                     const LayerTrace& trace, AdapterView& gradients) const {
  const at::Tensor ds = weights_.down.Backward(SiluMul(trace.gate_up), dy, *context.adapter,
                                               context.dropout, gradients, /*need_dx=*/true);
  const at::Tensor dnorm = weights_.gate_up.Backward(
      weights_.mlp_norm.Forward(trace.mlp_input), SiluMulBackward(trace.gate_up, ds),
      *context.adapter, context.dropout, gradients, /*need_dx=*/true);
  return weights_.mlp_norm.Backward(trace.mlp_input, dnorm);
}

at::Tensor DecoderLayer::AttentionBackward(const at::Tensor& dy, const TrainingContext& context,
                                           const LayerTrace& trace, AdapterView& gradients,
                                           bool need_dx) const {
  const at::Tensor dattended = weights_.o.Backward(trace.attended, dy, *context.adapter,
                                                   context.dropout, gradients, /*need_dx=*/true);
  AttentionGradient d = CausalAttentionBackward(numerics_, dattended, trace.q, trace.keys,
                                                trace.values, trace.attention);
  at::Tensor dk = d.dk.transpose(0, 1).contiguous();
  rotary_->RotateBack(d.dq, context.positions);
  rotary_->RotateBack(dk, context.positions);
  if (weights_.q_norm) {
    d.dq = weights_.q_norm->Backward(trace.q_raw, d.dq);
    dk = weights_.k_norm->Backward(trace.k_raw, dk);
  }
  const at::Tensor dqkv =
      at::cat({d.dq.flatten(1), dk.flatten(1), d.dv.transpose(0, 1).flatten(1)}, 1);
  const at::Tensor dnorm =
      weights_.qkv.Backward(weights_.attention_norm.Forward(trace.input), dqkv, *context.adapter,
                            context.dropout, gradients, need_dx);
  return need_dx ? weights_.attention_norm.Backward(trace.input, dnorm) : at::Tensor();
}

}  // namespace mayfly
