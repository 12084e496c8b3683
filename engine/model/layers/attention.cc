#include "engine/model/layers/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <ATen/Parallel.h>

#include "engine/model/layers/cpu_ops.h"

namespace mayfly {
namespace {

float Scale(const at::Tensor& q) { return 1.0f / std::sqrt(static_cast<float>(q.size(-1))); }

// ---- With the CPU kernels ---------------------------------------------------------------------

// Keys or values in the type of the queries.
at::Tensor InTypeOf(const at::Tensor& q, const at::Tensor& x) {
  return x.scalar_type() == q.scalar_type() ? x : x.to(q.scalar_type()).contiguous();
}

cpu::AttentionInputs KernelInputs(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  cpu::AttentionInputs in;
  in.shape = {.tokens = q.size(0),
              .keys = k.size(1),
              .heads = q.size(1),
              .kv_heads = k.size(0),
              .head_dim = q.size(2),
              .scale = Scale(q)};
  in.q = CpuArray(q);
  in.q_stride = q.stride(0);
  in.k = CpuArray(k);
  in.v = CpuArray(v);
  in.kv_stride = k.stride(0);
  return in;
}

// [kv_heads, head_dim, padded_keys] from [kv_heads, keys, head_dim].
at::Tensor Transposed(const cpu::Kernels& kernels, const cpu::AttentionShape& shape,
                      const at::Tensor& x) {
  at::Tensor out = at::empty({shape.kv_heads, shape.head_dim, shape.padded_keys()}, x.options());
  at::parallel_for(0, shape.kv_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t head = begin; head < end; ++head) {
      kernels.transpose(shape, CpuArray(x, head * x.stride(0)),
                        CpuArray(out, head * out.stride(0)));
    }
  });
  return out;
}

// Later blocks of queries see more keys. Taken from both ends in turn, any contiguous share of the
// order has about the same work in it.
int64_t BalancedBlock(int64_t index, int64_t blocks) {
  return index % 2 == 0 ? index / 2 : blocks - 1 - index / 2;
}

// Returns log_sum_exp: [heads, tokens].
at::Tensor AttendBlocks(const cpu::Kernels& kernels, const AttentionInput& input,
                        const at::Tensor& out) {
  const at::Tensor k = InTypeOf(input.q, input.k), v = InTypeOf(input.q, input.v);
  cpu::AttentionInputs in = KernelInputs(input.q, k, v);
  const at::Tensor transposed = Transposed(kernels, in.shape, v);
  in.transposed = CpuArray(transposed);
  at::Tensor log_sum_exp = at::empty({in.shape.heads, in.shape.tokens}, at::kFloat);
  float* const log_sum_exp_data = log_sum_exp.mutable_data_ptr<float>();
  const int64_t heads = in.shape.heads, blocks = in.shape.query_blocks();
  at::parallel_for(0, heads * blocks, 1, [&](int64_t begin, int64_t end) {
    const at::Tensor scratch =
        at::empty({kernels.attention_scratch(in.shape.head_dim)}, at::kFloat);
    for (int64_t task = begin; task < end; ++task) {
      kernels.attention(in, task % heads, BalancedBlock(task / heads, blocks),
                        scratch.mutable_data_ptr<float>(), CpuArray(out), log_sum_exp_data);
    }
  });
  return log_sum_exp;
}

// Segments of one token each, key heads shared among threads. Without views: making those of a few
// rows takes as long as their attention.
void AttendTokens(const cpu::Kernels& kernels, const at::Tensor& q, const at::Tensor& keys,
                  const at::Tensor& values, const std::vector<AttentionSegment>& segments,
                  const at::Tensor& out) {
  if (segments.empty()) return;
  const int64_t kv_heads = keys.size(1), head_dim = keys.size(3), group = q.size(1) / kv_heads;
  const float scale = Scale(q);
  at::parallel_for(
      0, static_cast<int64_t>(segments.size()) * kv_heads, 1, [&](int64_t begin, int64_t end) {
        std::vector<float> scores;
        for (int64_t task = begin; task < end; ++task) {
          const AttentionSegment& segment = segments[static_cast<size_t>(task / kv_heads)];
          const int64_t head = task % kv_heads, place = head * group * head_dim;
          const int64_t count = segment.row_begin + 1;
          const int64_t row = segment.row * keys.stride(0) + head * keys.stride(1);
          scores.resize(static_cast<size_t>(group * count));
          kernels.attend(CpuArray(q, segment.batch_begin * q.stride(0) + place), group,
                         CpuArray(keys, row), CpuArray(values, row), count, head_dim, scale,
                         scores.data(), CpuArray(out, segment.batch_begin * out.stride(0) + place));
        }
      });
}

void AttendBlocksBackward(const cpu::Kernels& kernels, const AttentionInput& input,
                          const AttentionTrace& trace, const at::Tensor& dout,
                          const AttentionGradient& gradient) {
  const at::Tensor k = InTypeOf(input.q, input.k), v = InTypeOf(input.q, input.v);
  cpu::AttentionInputs in = KernelInputs(input.q, k, v);
  in.shape.prefix = in.shape.keys - in.shape.tokens;
  const at::Tensor transposed = Transposed(kernels, in.shape, k);
  in.transposed = CpuArray(transposed);
  // Blocks of a head add to the same keys. Two tasks a head, each with sums of its own and every
  // other block, keep threads apart and the order of every sum fixed.
  constexpr int64_t kParts = 2;
  const int64_t heads = in.shape.heads, tokens = in.shape.tokens, blocks = in.shape.query_blocks();
  const int64_t group = heads / in.shape.kv_heads;
  const int64_t padded_dim =
      (in.shape.head_dim + cpu::kQueryBlock - 1) / cpu::kQueryBlock * cpu::kQueryBlock;
  const at::Tensor dk =
      at::zeros({in.shape.kv_heads, group * kParts, tokens, padded_dim}, at::kFloat);
  const at::Tensor dv = at::zeros_like(dk);
  float* const dk_data = dk.mutable_data_ptr<float>();
  float* const dv_data = dv.mutable_data_ptr<float>();
  at::parallel_for(0, heads * kParts, 1, [&](int64_t begin, int64_t end) {
    const at::Tensor scratch =
        at::empty({kernels.attention_scratch(in.shape.head_dim)}, at::kFloat);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t place = task * tokens * padded_dim;
      for (int64_t block = task % kParts; block < blocks; block += kParts) {
        kernels.attention_backward(in, task / kParts, block, scratch.mutable_data_ptr<float>(),
                                   {.out = CpuArray(trace.out),
                                    .dout = CpuArray(dout),
                                    .log_sum_exp = trace.log_sum_exp.const_data_ptr<float>(),
                                    .dq = CpuArray(gradient.dq),
                                    .dq_stride = gradient.dq.stride(0),
                                    .dk = dk_data + place,
                                    .dv = dv_data + place});
      }
    }
  });
  const auto total = [&](const at::Tensor& parts) {
    return parts.sum(1).narrow(2, 0, in.shape.head_dim).transpose(0, 1);
  };
  gradient.dk.copy_(total(dk));
  gradient.dv.copy_(total(dv));
}

// ---- With plain ATen --------------------------------------------------------------------------
//
// The query heads that share a key head are laid along the query axis, so that keys and values are
// never repeated and their gradients come out summed. Queries are taken in blocks, so that a block
// meets only the keys before its end and no [tokens, keys] matrix is ever whole.

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

// [tokens, heads, head_dim] -> [kv_heads, group * block.tokens, head_dim].
at::Tensor GroupHeads(const at::Tensor& x, const Block& block, int64_t kv_heads) {
  const int64_t group = x.size(1) / kv_heads, head_dim = x.size(2);
  return x.narrow(0, block.begin, block.tokens)
      .unflatten(1, {kv_heads, group})
      .permute({1, 2, 0, 3})
      .reshape({kv_heads, group * block.tokens, head_dim});
}

// The way back: -> [block.tokens, heads, head_dim].
at::Tensor UngroupHeads(const at::Tensor& x, const Block& block) {
  const int64_t kv_heads = x.size(0), group = x.size(1) / block.tokens, head_dim = x.size(2);
  return x.view({kv_heads, group, block.tokens, head_dim})
      .permute({2, 0, 1, 3})
      .reshape({block.tokens, kv_heads * group, head_dim});
}

// Scores with those above the diagonal at -infinity: [kv_heads, group * block.tokens, block.keys]
// fp32.
at::Tensor Scores(const at::Tensor& q, const at::Tensor& k, const Block& block) {
  const int64_t group = q.size(1) / block.tokens;
  const at::Tensor mask =
      at::full({block.tokens, block.keys}, -std::numeric_limits<float>::infinity(),
               q.options().dtype(at::kFloat))
          .triu_(block.keys - block.tokens + 1)
          .repeat({group, 1});
  return at::matmul(q, k.narrow(1, 0, block.keys).transpose(1, 2))
      .to(at::kFloat)
      .mul_(Scale(q))
      .add_(mask);
}

AttentionTrace AttendPlain(const AttentionInput& input) {
  const int64_t tokens = input.q.size(0), heads = input.q.size(1), kv_heads = input.k.size(0);
  const at::Tensor k = InTypeOf(input.q, input.k), v = InTypeOf(input.q, input.v);
  AttentionTrace trace{at::empty({tokens, heads, input.q.size(2)}, input.q.options()),
                       at::empty({heads, tokens}, input.q.options().dtype(at::kFloat))};
  for (const Block& block : Blocks(tokens, k.size(1))) {
    const at::Tensor scores = Scores(GroupHeads(input.q, block, kv_heads), k, block);
    const at::Tensor log_sum_exp = scores.logsumexp(-1, /*keepdim=*/true);
    const at::Tensor p = (scores - log_sum_exp).exp_().to(input.q.scalar_type());
    trace.out.narrow(0, block.begin, block.tokens)
        .copy_(UngroupHeads(at::matmul(p, v.narrow(1, 0, block.keys)), block));
    trace.log_sum_exp.narrow(1, block.begin, block.tokens)
        .copy_(log_sum_exp.view({heads, block.tokens}));
  }
  trace.out = trace.out.view({tokens, -1});
  return trace;
}

void AttendPlainBackward(const AttentionInput& input, const AttentionTrace& trace,
                         const at::Tensor& dout, const AttentionGradient& gradient) {
  const int64_t tokens = input.q.size(0), kv_heads = input.k.size(0), heads = input.q.size(1);
  const int64_t prefix = input.k.size(1) - tokens;
  const at::Tensor keys = InTypeOf(input.q, input.k), values = InTypeOf(input.q, input.v);
  const at::Tensor all_dout = dout.view({tokens, heads, -1}),
                   out = trace.out.view(all_dout.sizes());
  const at::Tensor all_dk =
      at::zeros({kv_heads, tokens, keys.size(2)}, keys.options().dtype(at::kFloat));
  const at::Tensor all_dv = at::zeros_like(all_dk);
  for (const Block& block : Blocks(tokens, keys.size(1))) {
    const at::Tensor q = GroupHeads(input.q, block, kv_heads);
    const at::Tensor block_dout = GroupHeads(all_dout, block, kv_heads);
    const at::Tensor log_sum_exp =
        trace.log_sum_exp.narrow(1, block.begin, block.tokens).reshape({kv_heads, q.size(1), 1});
    const at::Tensor p = Scores(q, keys, block).sub_(log_sum_exp).exp_();
    const at::Tensor dv = at::matmul(p.transpose(1, 2).to(q.scalar_type()), block_dout);
    const at::Tensor dp =
        at::matmul(block_dout, values.narrow(1, 0, block.keys).transpose(1, 2)).to(at::kFloat);
    const at::Tensor delta =
        block_dout.mul(GroupHeads(out, block, kv_heads)).to(at::kFloat).sum(-1, /*keepdim=*/true);
    const at::Tensor ds = dp.sub_(delta).mul_(p).mul_(Scale(q)).to(q.scalar_type());
    gradient.dq.narrow(0, block.begin, block.tokens)
        .copy_(UngroupHeads(at::matmul(ds, keys.narrow(1, 0, block.keys)), block));
    const int64_t own = block.keys - prefix;
    all_dk.narrow(1, 0, own).add_(at::matmul(ds.transpose(1, 2), q).narrow(1, prefix, own));
    all_dv.narrow(1, 0, own).add_(dv.narrow(1, prefix, own));
  }
  gradient.dk.copy_(all_dk.transpose(0, 1));
  gradient.dv.copy_(all_dv.transpose(0, 1));
}

}  // namespace

void CausalAttention(const Numerics& numerics, const at::Tensor& q, const at::Tensor& keys,
                     const at::Tensor& values, const std::vector<AttentionSegment>& segments,
                     const at::Tensor& out) {
  std::vector<AttentionSegment> single;
  for (const AttentionSegment& segment : segments) {
    if (numerics.kernels != nullptr && segment.tokens == 1) {
      single.push_back(segment);
      continue;
    }
    const int64_t end = segment.row_begin + segment.tokens;
    const AttentionInput input{q.narrow(0, segment.batch_begin, segment.tokens),
                               keys[segment.row].narrow(1, 0, end),
                               values[segment.row].narrow(1, 0, end)};
    const at::Tensor part = out.narrow(0, segment.batch_begin, segment.tokens);
    if (numerics.kernels != nullptr) {
      AttendBlocks(*numerics.kernels, input, part);
    } else {
      part.copy_(AttendPlain(input).out);
    }
  }
  if (numerics.kernels != nullptr) AttendTokens(*numerics.kernels, q, keys, values, single, out);
}

at::Tensor DecodeAttention(const at::Tensor& q, const at::Tensor& rows, const at::Tensor& positions,
                           const at::Tensor& keys, const at::Tensor& values) {
  const int64_t n = q.size(0), kv_heads = keys.size(1), window = keys.size(2);
  const at::Tensor k = InTypeOf(q, keys.index_select(0, rows));
  const at::Tensor v = InTypeOf(q, values.index_select(0, rows));
  const at::Tensor unseen =
      at::arange(window, positions.options()).unsqueeze(0).gt(positions.unsqueeze(1));
  const at::Tensor grouped = q.reshape({n, kv_heads, q.size(1) / kv_heads, q.size(2)});
  const at::Tensor scores =
      at::matmul(grouped, k.transpose(2, 3))
          .to(at::kFloat)
          .mul_(Scale(q))
          .masked_fill_(unseen.view({n, 1, 1, window}), -std::numeric_limits<float>::infinity());
  return at::matmul(scores.softmax(-1).to(q.scalar_type()), v).reshape({n, -1});
}

at::Tensor CausalAttentionForTraining(const Numerics& numerics, const AttentionInput& input,
                                      const at::Tensor& out) {
  if (numerics.kernels != nullptr) return AttendBlocks(*numerics.kernels, input, out);
  const AttentionTrace trace = AttendPlain(input);
  out.copy_(trace.out);
  return trace.log_sum_exp;
}

void CausalAttentionBackward(const Numerics& numerics, const AttentionInput& input,
                             const AttentionTrace& trace, const at::Tensor& dout,
                             const AttentionGradient& gradient) {
  if (numerics.kernels == nullptr) {
    AttendPlainBackward(input, trace, dout, gradient);
  } else {
    AttendBlocksBackward(*numerics.kernels, input, trace, dout, gradient);
  }
}

}  // namespace mayfly
