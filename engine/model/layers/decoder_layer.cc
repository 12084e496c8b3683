#include "engine/model/layers/decoder_layer.h"

#include <utility>

#include <ATen/Parallel.h>

#include "engine/model/layers/cpu_ops.h"

namespace mayfly {

at::Tensor SiluMul(const Numerics& numerics, const at::Tensor& gate_up) {
  const int64_t tokens = gate_up.size(0), width = gate_up.size(1) / 2;
  if (numerics.kernels == nullptr) {
    return at::silu(gate_up.narrow(1, 0, width)).mul_(gate_up.narrow(1, width, width));
  }
  at::Tensor y = at::empty({tokens, width}, gate_up.options());
  at::parallel_for(0, tokens, kGrainTokens, [&](int64_t begin, int64_t end) {
    numerics.kernels->silu_mul(CpuArray(gate_up, begin * 2 * width), end - begin, width,
                               CpuArray(y, begin * width));
  });
  return y;
}

at::Tensor SiluMulBackward(const Numerics& numerics, const at::Tensor& gate_up,
                           const at::Tensor& ds) {
  const int64_t tokens = gate_up.size(0), width = gate_up.size(1) / 2;
  if (numerics.kernels == nullptr) {
    const at::Tensor gate = gate_up.narrow(1, 0, width), up = gate_up.narrow(1, width, width);
    const at::Tensor sigmoid = at::sigmoid(gate);
    const at::Tensor silu = gate * sigmoid;
    // d silu(g) / dg = sigmoid(g) (1 + g (1 - sigmoid(g))) = sigmoid(g) + silu(g) (1 - sigmoid(g))
    const at::Tensor slope = sigmoid + silu * (1 - sigmoid);
    return at::cat({ds * up * slope, ds * silu}, 1);
  }
  at::Tensor dgate_up = at::empty_like(gate_up);
  at::parallel_for(0, tokens, kGrainTokens, [&](int64_t begin, int64_t end) {
    numerics.kernels->silu_mul_backward(CpuArray(gate_up, begin * 2 * width),
                                        CpuArray(ds, begin * width), end - begin, width,
                                        CpuArray(dgate_up, begin * 2 * width));
  });
  return dgate_up;
}

DecoderLayer::DecoderLayer(const Numerics& numerics, const ModelConfig& config,
                           const Rotary* rotary, DecoderLayerWeights weights)
    : numerics_(numerics),
      heads_(config.heads),
      kv_heads_(config.kv_heads),
      head_dim_(config.head_dim),
      rotary_(rotary),
      weights_(std::move(weights)) {}

DecoderLayer::Qkv DecoderLayer::Split(const at::Tensor& qkv) const {
  const int64_t q = heads_ * head_dim_, kv = kv_heads_ * head_dim_;
  const auto part = [&](int64_t begin, int64_t heads) {
    return qkv.narrow(1, begin, heads * head_dim_).unflatten(1, {heads, head_dim_});
  };
  return {part(0, heads_), part(q, kv_heads_), part(q + kv, kv_heads_)};
}

void DecoderLayer::Store(const at::Tensor& from, const AttentionSegment& segment,
                         const at::Tensor& pool) const {
  if (numerics_.kernels == nullptr) {
    pool[segment.row]
        .narrow(1, segment.row_begin, segment.tokens)
        .copy_(from.narrow(0, segment.batch_begin, segment.tokens).transpose(0, 1));
    return;
  }
  const int64_t row = segment.row * pool.stride(0);
  for (int64_t token = 0; token < segment.tokens; ++token) {
    for (int64_t head = 0; head < kv_heads_; ++head) {
      numerics_.kernels->copy(
          CpuArray(from, (segment.batch_begin + token) * from.stride(0) + head * head_dim_),
          head_dim_,
          CpuArray(pool, row + head * pool.stride(1) + (segment.row_begin + token) * head_dim_));
    }
  }
}

at::Tensor DecoderLayer::AddResidual(const at::Tensor& x, const at::Tensor& y) const {
  if (numerics_.kernels == nullptr) return x + y;
  at::Tensor sum = at::empty_like(x);
  const int64_t width = x.size(1);
  const float* const x_data = x.const_data_ptr<float>();
  float* const sum_data = sum.mutable_data_ptr<float>();
  at::parallel_for(0, x.size(0), kGrainTokens, [&](int64_t begin, int64_t end) {
    numerics_.kernels->add(x_data + begin * width, CpuArray(y, begin * width),
                           (end - begin) * width, sum_data + begin * width);
  });
  return sum;
}

at::Tensor DecoderLayer::Mlp(const at::Tensor& x,
                             const std::vector<AdapterSegment>& adapters) const {
  const at::Tensor gate_up = weights_.gate_up.Forward(weights_.mlp_norm.Forward(x), adapters);
  return AddResidual(x, weights_.down.Forward(SiluMul(numerics_, gate_up), adapters));
}

DecoderLayer::Qkv DecoderLayer::Project(const at::Tensor& x, const at::Tensor& positions,
                                        const std::vector<AdapterSegment>& adapters,
                                        LayerTrace* trace) const {
  Qkv qkv = Split(weights_.qkv.Forward(weights_.attention_norm.Forward(x), adapters));
  if (weights_.q_norm) {
    if (trace != nullptr) {
      trace->q_raw = qkv.q;
      trace->k_raw = qkv.k;
    }
    qkv.q = weights_.q_norm->Forward(qkv.q);
    qkv.k = weights_.k_norm->Forward(qkv.k);
  }
  rotary_->Rotate(qkv.q, positions);
  rotary_->Rotate(qkv.k, positions);
  return qkv;
}

at::Tensor DecoderLayer::Decode(const at::Tensor& x, const at::Tensor& positions,
                                const at::Tensor& rows, const at::Tensor& keys,
                                const at::Tensor& values,
                                const std::vector<AdapterSegment>& adapters) const {
  const Qkv qkv = Project(x, positions, adapters);
  // Indexed so, a place is [tokens, kv_heads, head_dim], as the projections are.
  const c10::List<std::optional<at::Tensor>> places({rows, std::nullopt, positions});
  keys.index_put_(places, qkv.k.to(keys.scalar_type()));
  values.index_put_(places, qkv.v.to(values.scalar_type()));
  const at::Tensor attended = DecodeAttention(qkv.q, rows, positions, keys, values);
  return Mlp(AddResidual(x, weights_.o.Forward(attended, adapters)), adapters);
}

at::Tensor DecoderLayer::Forward(const at::Tensor& x, const at::Tensor& positions,
                                 const std::vector<AttentionSegment>& segments,
                                 const at::Tensor& keys, const at::Tensor& values,
                                 const std::vector<AdapterSegment>& adapters) const {
  const Qkv qkv = Project(x, positions, adapters);
  for (const AttentionSegment& segment : segments) {
    Store(qkv.k, segment, keys);
    Store(qkv.v, segment, values);
  }
  const at::Tensor attended = at::empty({x.size(0), heads_ * head_dim_}, numerics_.MatrixOptions());
  CausalAttention(numerics_, qkv.q, keys, values, segments, attended);
  return Mlp(AddResidual(x, weights_.o.Forward(attended, adapters)), adapters);
}

at::Tensor DecoderLayer::TrainForward(const at::Tensor& x, const TrainingContext& context,
                                      const std::vector<LayerPrefix>& prefixes,
                                      LayerTrace* trace) const {
  trace->input = x;
  const Qkv qkv = Project(x, context.positions, context.segments, trace);
  AttendSegments(qkv, context, prefixes, trace);
  trace->mlp_input = AddResidual(x, weights_.o.Forward(trace->attended, context.segments));
  trace->gate_up =
      weights_.gate_up.Forward(weights_.mlp_norm.Forward(trace->mlp_input), context.segments);
  return AddResidual(trace->mlp_input,
                     weights_.down.Forward(SiluMul(numerics_, trace->gate_up), context.segments));
}

void DecoderLayer::AttendSegments(const Qkv& qkv, const TrainingContext& context,
                                  const std::vector<LayerPrefix>& prefixes,
                                  LayerTrace* trace) const {
  trace->attended = at::empty({qkv.q.size(0), heads_ * head_dim_}, numerics_.MatrixOptions());
  for (size_t i = 0; i < context.segments.size(); ++i) {
    const AdapterSegment& segment = context.segments[i];
    const auto part = [&](const at::Tensor& x) {
      return x.narrow(0, segment.begin, segment.tokens);
    };
    // Through the type that the pool keeps, so that training sees what serving sees.
    const auto with_prefix = [&](const at::Tensor& prefix, const at::Tensor& own) {
      const at::Tensor mine = part(own).transpose(0, 1).to(numerics_.weights);
      return prefix.defined() ? at::cat({prefix, mine}, 1) : mine.contiguous();
    };
    trace->attention_inputs.push_back({part(qkv.q), with_prefix(prefixes[i].keys, qkv.k),
                                       with_prefix(prefixes[i].values, qkv.v)});
    trace->log_sum_exps.push_back(CausalAttentionForTraining(
        numerics_, trace->attention_inputs.back(), part(trace->attended)));
  }
}

at::Tensor DecoderLayer::Backward(const at::Tensor& dy, const TrainingContext& context,
                                  const LayerTrace& trace, bool need_dx) const {
  const at::Tensor dmlp_input = MlpBackward(dy, context, trace).add_(dy);
  const at::Tensor dx = AttentionBackward(dmlp_input, context, trace, need_dx);
  return need_dx ? dx.add(dmlp_input) : at::Tensor();
}

void DecoderLayer::VisitInputs(const LayerTrace& trace, const InputVisitor& visit) const {
  visit(weights_.qkv.modules(), weights_.attention_norm.Forward(trace.input));
  visit(weights_.o.modules(), trace.attended);
  visit(weights_.gate_up.modules(), weights_.mlp_norm.Forward(trace.mlp_input));
  visit(weights_.down.modules(), SiluMul(numerics_, trace.gate_up));
}

at::Tensor DecoderLayer::MlpBackward(const at::Tensor& dy, const TrainingContext& context,
                                     const LayerTrace& trace) const {
  const at::Tensor ds =
      weights_.down.Backward(SiluMul(numerics_, trace.gate_up), dy.to(numerics_.matrix),
                             context.segments, /*need_dx=*/true);
  const at::Tensor dnorm = weights_.gate_up.Backward(weights_.mlp_norm.Forward(trace.mlp_input),
                                                     SiluMulBackward(numerics_, trace.gate_up, ds),
                                                     context.segments, /*need_dx=*/true);
  return weights_.mlp_norm.Backward(trace.mlp_input, dnorm);
}

at::Tensor DecoderLayer::AttentionBackward(const at::Tensor& dy, const TrainingContext& context,
                                           const LayerTrace& trace, bool need_dx) const {
  const at::Tensor dattended = weights_.o.Backward(trace.attended, dy.to(numerics_.matrix),
                                                   context.segments, /*need_dx=*/true);
  const at::Tensor dqkv =
      at::empty({dy.size(0), (heads_ + 2 * kv_heads_) * head_dim_}, numerics_.MatrixOptions());
  Qkv d = Split(dqkv);
  for (size_t i = 0; i < context.segments.size(); ++i) {
    const AdapterSegment& segment = context.segments[i];
    const auto part = [&](const at::Tensor& x) {
      return x.narrow(0, segment.begin, segment.tokens);
    };
    CausalAttentionBackward(numerics_, trace.attention_inputs[i],
                            {part(trace.attended), trace.log_sum_exps[i]}, part(dattended),
                            {part(d.q), part(d.k), part(d.v)});
  }
  rotary_->RotateBack(d.q, context.positions);
  rotary_->RotateBack(d.k, context.positions);
  if (weights_.q_norm) {
    d.q.copy_(weights_.q_norm->Backward(trace.q_raw, d.q));
    d.k.copy_(weights_.k_norm->Backward(trace.k_raw, d.k));
  }
  const at::Tensor dnorm = weights_.qkv.Backward(weights_.attention_norm.Forward(trace.input), dqkv,
                                                 context.segments, need_dx);
  return need_dx ? weights_.attention_norm.Backward(trace.input, dnorm) : at::Tensor();
}

}  // namespace mayfly
