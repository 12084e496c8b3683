// Every instruction set's kernels against the definitions, in double precision.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "engine/device/cpu/kernels.h"
#include "gtest/gtest.h"

namespace mayfly::cpu {
namespace {

uint16_t ToBFloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
float FromBFloat16(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

// Numbers in one of the two types.
class Numbers {
 public:
  Numbers(Type type, size_t count) : type_(type), floats_(count), halves_(count) {}
  Numbers(Type type, const std::vector<float>& values) : Numbers(type, values.size()) {
    for (size_t i = 0; i < values.size(); ++i) {
      floats_[i] = values[i];
      halves_[i] = ToBFloat16(values[i]);
    }
  }
  static Numbers Random(Type type, size_t count, unsigned seed, double deviation = 1) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal(0, static_cast<float>(deviation));
    std::vector<float> values(count);
    for (float& value : values) value = normal(engine);
    return Numbers(type, values);
  }

  Array array(size_t offset = 0) {
    return type_ == Type::kFloat32 ? Array{floats_.data() + offset, type_}
                                   : Array{halves_.data() + offset, type_};
  }
  double operator[](size_t i) const {
    return type_ == Type::kFloat32 ? floats_[i] : FromBFloat16(halves_[i]);
  }
  size_t size() const { return floats_.size(); }
  std::vector<double> values() const {
    std::vector<double> all(size());
    for (size_t i = 0; i < size(); ++i) all[i] = (*this)[i];
    return all;
  }

 private:
  Type type_;
  std::vector<float> floats_;
  std::vector<uint16_t> halves_;
};

class CpuKernelsTest : public testing::TestWithParam<std::tuple<int, Type>> {
 protected:
  CpuKernelsTest()
      : kernels_(*SupportedKernels().data[std::get<0>(GetParam())]),
        type_(std::get<1>(GetParam())) {}

  Numbers Random(size_t count, unsigned seed, double deviation = 1) const {
    return Numbers::Random(type_, count, seed, deviation);
  }
  // Of the largest magnitude: inputs of either type are exact, results are rounded to the type.
  double tolerance() const { return type_ == Type::kFloat32 ? 2e-6 : 1.0 / 128; }
  void ExpectNear(const std::vector<double>& got, const std::vector<double>& want,
                  const std::string& what) const {
    ASSERT_EQ(got.size(), want.size()) << what;
    double scale = 0.1;  // inputs are of order one, and so are the terms that cancel
    for (const double x : want) scale = std::max(scale, std::abs(x));
    for (size_t i = 0; i < got.size(); ++i) {
      ASSERT_NEAR(got[i], want[i], tolerance() * scale)
          << what << " at " << i << " of " << got.size();
    }
  }

  const Kernels& kernels_;
  const Type type_;
};

TEST_P(CpuKernelsTest, LinearIsAMatrixProductWithBias) {
  for (const auto& [rows, in, out] : std::vector<std::tuple<int, int, int>>{
           {1, 576, 20}, {2, 64, 7}, {3, 33, 5}, {8, 576, 13}, {11, 70, 9}, {16, 1536, 6}}) {
    Numbers x = Random(static_cast<size_t>(rows * in), 1),
            w = Random(static_cast<size_t>(out * in), 2);
    std::vector<float> bias(static_cast<size_t>(out));
    for (size_t i = 0; i < bias.size(); ++i) bias[i] = static_cast<float>(i);
    Numbers y(type_, static_cast<size_t>(rows * out));
    kernels_.linear(x.array(), rows, in, w.array(), bias.data(), 0, out / 2, y.array(), out);
    kernels_.linear(x.array(), rows, in, w.array(), bias.data(), out / 2, out, y.array(), out);
    std::vector<double> want;
    for (int m = 0; m < rows; ++m) {
      for (int n = 0; n < out; ++n) {
        double sum = bias[static_cast<size_t>(n)];
        for (int k = 0; k < in; ++k) {
          sum += x[static_cast<size_t>(m * in + k)] * w[static_cast<size_t>(n * in + k)];
        }
        want.push_back(sum);
      }
    }
    ExpectNear(y.values(), want, "linear");
  }
}

TEST_P(CpuKernelsTest, ARowOfALinearProductIsTheSameAloneAndAmongOthers) {
  constexpr int kRows = 13, kIn = 200, kOut = 23;
  Numbers x = Random(kRows * kIn, 1), w = Random(kOut * kIn, 2), together(type_, kRows * kOut);
  kernels_.linear(x.array(), kRows, kIn, w.array(), nullptr, 0, kOut, together.array(), kOut);
  for (size_t row = 0; row < kRows; ++row) {
    Numbers alone(type_, kOut);
    kernels_.linear(x.array(row * kIn), 1, kIn, w.array(), nullptr, 0, kOut, alone.array(), kOut);
    for (size_t n = 0; n < kOut; ++n) ASSERT_EQ(alone[n], together[row * kOut + n]);
  }
}

TEST_P(CpuKernelsTest, ExpandAddsAScaledProduct) {
  constexpr int kRank = 5, kWidth = 83;
  Numbers a = Numbers::Random(Type::kFloat32, kRank, 1), b = Random(kRank * kWidth, 2);
  Numbers y = Random(kWidth, 3);
  std::vector<double> want = y.values();
  for (size_t n = 4; n < 80; ++n) {
    for (size_t r = 0; r < kRank; ++r) want[n] += 0.5 * a[r] * b[r * kWidth + n];
  }
  const auto* const a_data = static_cast<const float*>(a.array().data);
  kernels_.expand(a_data, kRank, b.array(), kWidth, 0.5f, 4, 80, y.array());
  ExpectNear(y.values(), want, "expand");
}

double NormLoss(const std::vector<double>& x, const Numbers& w, const Numbers& dy, double eps) {
  double square = 0, loss = 0;
  for (const double value : x) square += value * value;
  const double s = 1 / std::sqrt(square / static_cast<double>(x.size()) + eps);
  for (size_t i = 0; i < x.size(); ++i) loss += w[i] * x[i] * s * dy[i];
  return loss;
}

TEST_P(CpuKernelsTest, RmsNormAndItsGradientMatchTheDefinition) {
  constexpr int kWidth = 70, kRows = 3, kStride = 80;
  constexpr double kEps = 1e-5;
  Numbers x = Random(kRows * kStride, 1), w = Numbers::Random(Type::kFloat32, kWidth, 2);
  Numbers dy = Random(kRows * kWidth, 3), y(type_, kRows * kWidth), dx(type_, kRows * kWidth);
  const auto* const weight = static_cast<const float*>(w.array().data);
  kernels_.rms_norm(x.array(), kStride, weight, kEps, kRows, kWidth, y.array(), kWidth);
  kernels_.rms_norm_backward(x.array(), kStride, weight, kEps, kRows, kWidth, dy.array(),
                             dx.array());
  std::vector<double> want, want_dx;
  for (size_t row = 0; row < kRows; ++row) {
    std::vector<double> in(kWidth);
    double square = 0;
    for (size_t i = 0; i < kWidth; ++i) {
      in[i] = x[row * kStride + i];
      square += in[i] * in[i];
    }
    Numbers d(type_, kWidth);
    std::vector<float> row_dy(kWidth);
    for (size_t i = 0; i < kWidth; ++i) row_dy[i] = static_cast<float>(dy[row * kWidth + i]);
    d = Numbers(type_, row_dy);
    for (size_t i = 0; i < kWidth; ++i) {
      want.push_back(in[i] / std::sqrt(square / kWidth + kEps) * w[i]);
      constexpr double kStep = 1e-5;
      std::vector<double> up = in, down = in;
      up[i] += kStep;
      down[i] -= kStep;
      want_dx.push_back((NormLoss(up, w, d, kEps) - NormLoss(down, w, d, kEps)) / (2 * kStep));
    }
  }
  ExpectNear(y.values(), want, "norm");
  ExpectNear(dx.values(), want_dx, "gradient");
}

TEST_P(CpuKernelsTest, SiluMulAndItsGradientMatchTheDefinition) {
  constexpr size_t kWidth = 37, kRows = 2;
  Numbers x = Random(kRows * 2 * kWidth, 1, 3), dy = Random(kRows * kWidth, 2);
  Numbers y(type_, kRows * kWidth), dx(type_, kRows * 2 * kWidth);
  kernels_.silu_mul(x.array(), kRows, kWidth, y.array());
  kernels_.silu_mul_backward(x.array(), dy.array(), kRows, kWidth, dx.array());
  std::vector<double> want(kRows * kWidth), want_dx(kRows * 2 * kWidth);
  for (size_t row = 0; row < kRows; ++row) {
    for (size_t i = 0; i < kWidth; ++i) {
      const double g = x[row * 2 * kWidth + i], up = x[row * 2 * kWidth + kWidth + i];
      const double sigmoid = 1 / (1 + std::exp(-g)), d = dy[row * kWidth + i];
      want[row * kWidth + i] = g * sigmoid * up;
      want_dx[row * 2 * kWidth + i] = d * up * (sigmoid + g * sigmoid * (1 - sigmoid));
      want_dx[row * 2 * kWidth + kWidth + i] = d * g * sigmoid;
    }
  }
  ExpectNear(y.values(), want, "silu");
  ExpectNear(dx.values(), want_dx, "gradient");
}

TEST_P(CpuKernelsTest, RotateTurnsPairsAndBackAgain) {
  constexpr size_t kHeads = 2, kDim = 20, kHalf = kDim / 2;
  Numbers x = Random(kHeads * kDim, 1);
  const std::vector<double> before = x.values();
  std::vector<float> cosines, sines;
  for (size_t i = 0; i < kHalf; ++i) {
    cosines.push_back(std::cos(static_cast<float>(i)));
    sines.push_back(std::sin(static_cast<float>(i)));
  }
  kernels_.rotate(x.array(), kHeads, kDim, cosines.data(), sines.data(), 1);
  std::vector<double> want(kHeads * kDim);
  for (size_t h = 0; h < kHeads; ++h) {
    for (size_t i = 0; i < kHalf; ++i) {
      const double a = before[h * kDim + i], b = before[h * kDim + kHalf + i];
      want[h * kDim + i] = a * cosines[i] - b * sines[i];
      want[h * kDim + kHalf + i] = b * cosines[i] + a * sines[i];
    }
  }
  ExpectNear(x.values(), want, "rotated");
  kernels_.rotate(x.array(), kHeads, kDim, cosines.data(), sines.data(), -1);
  ExpectNear(x.values(), before, "rotated back");
}

TEST_P(CpuKernelsTest, CrossEntropyMatchesTheDefinition) {
  constexpr size_t kCount = 531, kLabel = 17;
  Numbers x = Random(kCount, 1, 4);
  const std::vector<double> logits = x.values();
  double sum = 0;
  for (const double logit : logits) sum += std::exp(logit);
  const float log_sum_exp = kernels_.log_sum_exp(x.array(), kCount);
  EXPECT_NEAR(log_sum_exp, std::log(sum), 1e-5);
  kernels_.cross_entropy_backward(x.array(), kCount, log_sum_exp, kLabel, 0.25f);
  std::vector<double> want;
  for (size_t i = 0; i < kCount; ++i) {
    want.push_back(0.25 * (std::exp(logits[i]) / sum - (i == kLabel ? 1 : 0)));
  }
  ExpectNear(x.values(), want, "gradient");
}

TEST_P(CpuKernelsTest, WhatIsNotFiniteStaysSo) {
  constexpr size_t kCount = 40;
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    std::vector<float> values(kCount, 1.0f);
    values[3] = bad;
    EXPECT_FALSE(std::isfinite(kernels_.log_sum_exp(Numbers(type_, values).array(), kCount)));
    Numbers y(type_, kCount / 2);
    Numbers x(type_, values);
    kernels_.silu_mul(x.array(), 1, kCount / 2, y.array());
    EXPECT_FALSE(std::isfinite(y[3]));
  }
}

// ---- Attention --------------------------------------------------------------------------------

struct Case {
  size_t tokens, keys, heads, kv_heads, head_dim, prefix;
};

struct AttentionReference {
  std::vector<double> out, lse, dq, dk, dv;
};

AttentionReference Reference(const Case& c, double scale, const Numbers& q, const Numbers& k,
                             const Numbers& v, const Numbers* out, const Numbers* dout) {
  AttentionReference result;
  const size_t d = c.head_dim, group = c.heads / c.kv_heads, own = c.keys - c.prefix;
  result.out.resize(c.tokens * c.heads * d);
  result.lse.resize(c.heads * c.tokens);
  result.dq.resize(result.out.size());
  result.dk.resize(c.kv_heads * own * d);
  result.dv.resize(c.kv_heads * own * d);
  for (size_t h = 0; h < c.heads; ++h) {
    const size_t head = h / group * c.keys * d;
    for (size_t t = 0; t < c.tokens; ++t) {
      const size_t query = (t * c.heads + h) * d, visible = c.keys - c.tokens + t + 1;
      std::vector<double> p(visible);
      double sum = 0;
      for (size_t s = 0; s < visible; ++s) {
        double score = 0;
        for (size_t i = 0; i < d; ++i) score += q[query + i] * k[head + s * d + i];
        p[s] = std::exp(score * scale);
        sum += p[s];
      }
      result.lse[h * c.tokens + t] = std::log(sum);
      for (size_t s = 0; s < visible; ++s) {
        p[s] /= sum;
        for (size_t i = 0; i < d; ++i) result.out[query + i] += p[s] * v[head + s * d + i];
      }
      if (dout == nullptr) continue;
      double delta = 0;
      for (size_t i = 0; i < d; ++i) delta += (*dout)[query + i] * (*out)[query + i];
      for (size_t s = 0; s < visible; ++s) {
        double dp = 0;
        for (size_t i = 0; i < d; ++i) dp += (*dout)[query + i] * v[head + s * d + i];
        const double ds = p[s] * (dp - delta) * scale;
        for (size_t i = 0; i < d; ++i) {
          result.dq[query + i] += ds * k[head + s * d + i];
          if (s < c.prefix) continue;
          const size_t place = (h / group * own + s - c.prefix) * d + i;
          result.dk[place] += ds * q[query + i];
          result.dv[place] += p[s] * (*dout)[query + i];
        }
      }
    }
  }
  return result;
}

TEST_P(CpuKernelsTest, AttentionAndItsGradientMatchTheDefinition) {
  for (const Case& c : std::vector<Case>{{1, 1, 1, 1, 8, 0},
                                         {5, 5, 2, 1, 16, 0},
                                         {70, 70, 3, 1, 64, 0},
                                         {65, 266, 4, 2, 32, 201},
                                         {130, 330, 2, 2, 6, 200},
                                         {40, 61, 3, 3, 80, 21}}) {
    const std::string what =
        "tokens " + std::to_string(c.tokens) + " keys " + std::to_string(c.keys);
    const size_t width = c.heads * c.head_dim, stride = width + 2, kv_size = c.keys * c.head_dim;
    const size_t own = c.keys - c.prefix, padded = (c.head_dim + 63) / 64 * 64;
    AttentionInputs in;
    in.shape = {.tokens = static_cast<int64_t>(c.tokens),
                .keys = static_cast<int64_t>(c.keys),
                .heads = static_cast<int64_t>(c.heads),
                .kv_heads = static_cast<int64_t>(c.kv_heads),
                .head_dim = static_cast<int64_t>(c.head_dim),
                .scale = 0.3f};
    Numbers q = Random(c.tokens * width, 1), k = Random(c.kv_heads * kv_size, 2);
    Numbers v = Random(c.kv_heads * kv_size, 3), dout = Random(c.tokens * width, 4);
    // Queries lie further apart than they are wide.
    std::vector<float> spread(c.tokens * stride, 9.0f);
    for (size_t t = 0; t < c.tokens; ++t) {
      for (size_t i = 0; i < width; ++i)
        spread[t * stride + i] = static_cast<float>(q[t * width + i]);
    }
    Numbers q_spread(type_, spread);
    in.q = q_spread.array();
    in.q_stride = static_cast<int64_t>(stride);
    in.k = k.array();
    in.v = v.array();
    in.kv_stride = static_cast<int64_t>(kv_size);
    std::vector<float> scratch(static_cast<size_t>(kernels_.attention_scratch(in.shape.head_dim)));

    const auto transposed = [&](Numbers& x) {
      const size_t head = c.head_dim * static_cast<size_t>(in.shape.padded_keys());
      Numbers all(type_, c.kv_heads * head);
      for (size_t h = 0; h < c.kv_heads; ++h) {
        kernels_.transpose(in.shape, x.array(h * kv_size), all.array(h * head));
      }
      return all;
    };
    Numbers v_transposed = transposed(v);
    in.transposed = v_transposed.array();
    Numbers out(type_, c.tokens * width), lse(Type::kFloat32, c.heads * c.tokens);
    auto* const lse_data = static_cast<float*>(lse.array().data);
    for (int64_t head = 0; head < in.shape.heads; ++head) {
      for (int64_t block = 0; block < in.shape.query_blocks(); ++block) {
        kernels_.attention(in, head, block, scratch.data(), out.array(), lse_data);
      }
    }
    const AttentionReference want = Reference(c, 0.3, q, k, v, &out, &dout);
    ExpectNear(out.values(), want.out, "out " + what);
    ExpectNear(lse.values(), want.lse, "log-sum-exp " + what);

    in.shape.prefix = static_cast<int64_t>(c.prefix);
    Numbers k_transposed = transposed(k);
    in.transposed = k_transposed.array();
    Numbers dq(type_, c.tokens * width);
    std::vector<float> dk(c.kv_heads * own * padded), dv(dk.size());
    for (size_t head = 0; head < c.heads; ++head) {
      const size_t place = head / (c.heads / c.kv_heads) * own * padded;
      for (int64_t block = 0; block < in.shape.query_blocks(); ++block) {
        kernels_.attention_backward(
            in, static_cast<int64_t>(head), block, scratch.data(),
            {out.array(), dout.array(), lse_data, dq.array(), static_cast<int64_t>(width),
             dk.data() + place, dv.data() + place});
      }
    }
    const auto unpadded = [&](const std::vector<float>& x) {
      std::vector<double> dense;
      for (size_t row = 0; row < c.kv_heads * own; ++row) {
        for (size_t i = 0; i < c.head_dim; ++i) dense.push_back(x[row * padded + i]);
      }
      return dense;
    };
    ExpectNear(dq.values(), want.dq, "dq " + what);
    ExpectNear(unpadded(dk), want.dk, "dk " + what);
    ExpectNear(unpadded(dv), want.dv, "dv " + what);
  }
}

TEST_P(CpuKernelsTest, OneQueryAttendsAsTheDefinitionSays) {
  for (const Case& c :
       std::vector<Case>{{1, 1, 2, 1, 8, 0}, {1, 77, 3, 1, 64, 0}, {1, 300, 2, 1, 20, 0}}) {
    Numbers q = Random(c.heads * c.head_dim, 1), k = Random(c.keys * c.head_dim, 2);
    Numbers v = Random(c.keys * c.head_dim, 3), out(type_, c.heads * c.head_dim);
    std::vector<float> scores(c.heads * c.keys);
    kernels_.attend(q.array(), static_cast<int64_t>(c.heads), k.array(), v.array(),
                    static_cast<int64_t>(c.keys), static_cast<int64_t>(c.head_dim), 0.3f,
                    scores.data(), out.array());
    ExpectNear(out.values(), Reference(c, 0.3, q, k, v, nullptr, nullptr).out, "one query");
  }
}

INSTANTIATE_TEST_SUITE_P(
    InstructionSets, CpuKernelsTest,
    testing::Combine(testing::Range(0, static_cast<int>(SupportedKernels().count)),
                     testing::Values(Type::kFloat32, Type::kBFloat16)),
    [](const auto& test) {
      return std::string(SupportedKernels().data[std::get<0>(test.param)]->name) +
             (std::get<1>(test.param) == Type::kFloat32 ? "_float32" : "_bfloat16");
    });

}  // namespace
}  // namespace mayfly::cpu
