#include "engine/model/layers/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

#include <ATen/Parallel.h>

#include "engine/model/layers/cpu_ops.h"

namespace mayfly {
namespace {

// Small enough that little is computed above the diagonal, large enough for efficient products.
constexpr int64_t kBlockTokens = 256;

// Queries [begin, begin + tokens) of a forward pass and the keys that they may see.
struct Block {
  int64_t begin;
  int64_t tokens;
  int64_t keys;
};

std::vector<Block> Blocks(int64_t tokens, int64_t keys) {
  std::vector<Block> blocks;
  for (int64_t begin = 0; begin < tokens; begin += kBlockTokens) {
    const int64_t count = std::min(kBlockTokens, tokens - begin);
    blocks.push_back({begin, count, keys - tokens + begin + count});
  }
  return blocks;
}

// [tokens, heads, head_dim] -> [1, kv_heads, group * block.tokens, head_dim], matrix type.
at::Tensor GroupHeads(const Numerics& numerics, const at::Tensor& x, const Block& block,
                      int64_t kv_heads) {
  const int64_t group = x.size(1) / kv_heads, head_dim = x.size(2);
  return x.narrow(0, block.begin, block.tokens)
      .view({block.tokens, kv_heads, group, head_dim})
      .permute({1, 2, 0, 3})
      .to(numerics.matrix)
      .reshape({1, kv_heads, group * block.tokens, head_dim});
}

// The way back: -> [block.tokens, heads, head_dim].
at::Tensor UngroupHeads(const at::Tensor& x, const Block& block) {
  const int64_t kv_heads = x.size(1), group = x.size(2) / block.tokens, head_dim = x.size(3);
  return x.view({kv_heads, group, block.tokens, head_dim})
      .permute({2, 0, 1, 3})
      .reshape({block.tokens, kv_heads * group, head_dim});
}

// Added to the scores: 0 where a query may see a key, -infinity above the diagonal.
// [group * tokens, keys], matrix type.
at::Tensor BlockMask(const Numerics& numerics, const Block& block, int64_t group) {
  const auto options = at::TensorOptions(numerics.device).dtype(numerics.matrix);
  return at::full({block.tokens, block.keys}, -std::numeric_limits<float>::infinity(), options)
      .triu_(block.keys - block.tokens + 1)
      .repeat({group, 1});
}

struct Attended {
  at::Tensor out;
  at::Tensor log_sum_exp;
};

double Scale(const at::Tensor& q) { return 1.0 / std::sqrt(static_cast<double>(q.size(-1))); }

// q: [1, heads, queries, head_dim]; k, v: [1, heads, keys, head_dim]; mask: [queries, keys].
Attended Attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const at::Tensor& mask) {
  if (q.is_cpu()) {
    auto [out, lse] = at::_scaled_dot_product_flash_attention_for_cpu(
        q, k, v, /*dropout_p=*/0.0, /*is_causal=*/false, mask, Scale(q));
    return {out, lse};
  }
  const at::Tensor scores =
      at::matmul(q, k.transpose(-2, -1)).to(at::kFloat).mul_(Scale(q)).add_(mask);
  const at::Tensor lse = scores.logsumexp(-1, /*keepdim=*/true);
  return {at::matmul((scores - lse).exp_().to(q.scalar_type()), v), lse};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> AttendBackward(
    const at::Tensor& dout, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    const at::Tensor& mask, const Attended& attended) {
  if (q.is_cpu()) {
    return at::_scaled_dot_product_flash_attention_for_cpu_backward(
        dout, q, k, v, attended.out, attended.log_sum_exp, /*dropout_p=*/0.0, /*is_causal=*/false,
        mask, Scale(q));
  }
  const at::Tensor scores =
      at::matmul(q, k.transpose(-2, -1)).to(at::kFloat).mul_(Scale(q)).add_(mask);
  const at::Tensor p = scores.sub_(attended.log_sum_exp).exp_();
  const at::Tensor dv = at::matmul(p.transpose(-2, -1).to(q.scalar_type()), dout);
  const at::Tensor dp = at::matmul(dout, v.transpose(-2, -1)).to(at::kFloat);
  const at::Tensor delta = dout.mul(attended.out).to(at::kFloat).sum(-1, /*keepdim=*/true);
  const at::Tensor ds = dp.sub_(delta).mul_(p).mul_(Scale(q)).to(q.scalar_type());
  return {at::matmul(ds, k), at::matmul(ds.transpose(-2, -1), q), dv};
}

// One token's attention on a CPU, key heads shared among threads.
// q: [heads, head_dim] fp32; k, v: [kv_heads, keys, head_dim], each head contiguous.
at::Tensor AttendOneToken(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const int64_t kv_heads = k.size(0), keys = k.size(1), head_dim = k.size(2);
  const int64_t group = q.size(0) / kv_heads;
  const at::Tensor query = q.contiguous();
  at::Tensor out = at::empty_like(query);
  const float* const q_data = query.const_data_ptr<float>();
  float* const out_data = out.mutable_data_ptr<float>();
  const float scale = static_cast<float>(Scale(q));
  at::parallel_for(0, kv_heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> scores(static_cast<size_t>(group * keys));
    for (int64_t head = begin; head < end; ++head) {
      cpu::BestKernels().attend(q_data + head * group * head_dim, group, AsWeightMatrix(k[head]),
                                AsWeightMatrix(v[head]), keys, head_dim, scale, scores.data(),
                                out_data + head * group * head_dim);
    }
  });
  return out;
}

}  // namespace

at::Tensor CausalAttention(const Numerics& numerics, const at::Tensor& q, const at::Tensor& k,
                           const at::Tensor& v, AttentionTrace* trace) {
  const int64_t tokens = q.size(0), heads = q.size(1), head_dim = q.size(2);
  const int64_t kv_heads = k.size(0);
  if (numerics.on_cpu() && tokens == 1 && trace == nullptr) {
    return AttendOneToken(q[0], k, v).view({1, heads * head_dim});
  }
  const at::Tensor keys = k.to(numerics.matrix).unsqueeze(0);
  const at::Tensor values = v.to(numerics.matrix).unsqueeze(0);
  at::Tensor out = at::empty({tokens, heads, head_dim}, q.options());
  for (const Block& block : Blocks(tokens, k.size(1))) {
    const Attended attended =
        Attend(GroupHeads(numerics, q, block, kv_heads), keys.narrow(2, 0, block.keys),
               values.narrow(2, 0, block.keys), BlockMask(numerics, block, heads / kv_heads));
    out.narrow(0, block.begin, block.tokens).copy_(UngroupHeads(attended.out, block));
    if (trace != nullptr) {
      trace->outs.push_back(attended.out);
      trace->log_sum_exps.push_back(attended.log_sum_exp);
    }
  }
  return out.view({tokens, heads * head_dim});
}

AttentionGradient CausalAttentionBackward(const Numerics& numerics, const at::Tensor& dout,
                                          const at::Tensor& q, const at::Tensor& k,
                                          const at::Tensor& v, const AttentionTrace& trace) {
  const int64_t kv_heads = k.size(0), prefix = k.size(1) - q.size(0);
  const at::Tensor dout_heads = dout.view(q.sizes());
  const at::Tensor keys = k.to(numerics.matrix).unsqueeze(0);
  const at::Tensor values = v.to(numerics.matrix).unsqueeze(0);
  AttentionGradient gradient{at::empty(q.sizes(), q.options()),
                             at::zeros({kv_heads, q.size(0), q.size(2)}, q.options()),
                             at::zeros({kv_heads, q.size(0), q.size(2)}, q.options())};
  size_t index = 0;
  for (const Block& block : Blocks(q.size(0), k.size(1))) {
    const auto [dq, dk, dv] = AttendBackward(
        GroupHeads(numerics, dout_heads, block, kv_heads), GroupHeads(numerics, q, block, kv_heads),
        keys.narrow(2, 0, block.keys), values.narrow(2, 0, block.keys),
        BlockMask(numerics, block, q.size(1) / kv_heads),
        {trace.outs[index], trace.log_sum_exps[index]});
    ++index;
    gradient.dq.narrow(0, block.begin, block.tokens).copy_(UngroupHeads(dq, block));
    const int64_t own_keys = block.keys - prefix;
    gradient.dk.narrow(1, 0, own_keys).add_(dk[0].narrow(1, prefix, own_keys));
    gradient.dv.narrow(1, 0, own_keys).add_(dv[0].narrow(1, prefix, own_keys));
  }
  return gradient;
}

}  // namespace mayfly
