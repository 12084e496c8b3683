#include "engine/model/layers/rotary.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <vector>

#include <ATen/Parallel.h>

#include "engine/model/layers/cpu_ops.h"

namespace mayfly {
namespace {

using Frequencies = std::vector<double>;
constexpr double kTwoPi = 2 * std::numbers::pi;

Frequencies Plain(double theta, int32_t head_dim) {
  Frequencies inverse(static_cast<size_t>(head_dim / 2));
  for (size_t i = 0; i < inverse.size(); ++i) {
    inverse[i] = std::pow(theta, -2.0 * static_cast<double>(i) / head_dim);
  }
  return inverse;
}

// "NTK-aware" scaling: the base grows with the length, so that high frequencies stay as they are.
double DynamicTheta(const RopeConfig& config, int32_t head_dim, int32_t positions) {
  const double original = config.original_max_positions;
  const double length = std::max<double>(positions, original);
  const double growth = config.factor * length / original - (config.factor - 1);
  return config.theta * std::pow(growth, head_dim / (head_dim - 2.0));
}

// Llama 3.1: long waves are slowed by `factor`, short ones kept, those between are mixed.
void ScaleLlama3(const RopeConfig& config, Frequencies& inverse) {
  const double original = config.original_max_positions;
  for (double& frequency : inverse) {
    const double periods = original * frequency / kTwoPi;  // full turns over the original length
    if (periods >= config.high_freq_factor) continue;
    if (periods <= config.low_freq_factor) {
      frequency /= config.factor;
      continue;
    }
    const double keep =
        (periods - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor);
    frequency = (1 - keep) * frequency / config.factor + keep * frequency;
  }
}

// YaRN: dimensions that turn often keep their frequency, those that turn rarely are interpolated.
void ScaleYarn(const RopeConfig& config, int32_t head_dim, Frequencies& inverse) {
  const auto dimension_of = [&](double rotations) {
    return head_dim * std::log(config.original_max_positions / (rotations * kTwoPi)) /
           (2 * std::log(config.theta));
  };
  double low = dimension_of(config.beta_fast);
  double high = dimension_of(config.beta_slow);
  if (config.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min<double>(high, head_dim - 1);
  if (low == high) high += 0.001;  // as the reference: no division by zero
  for (size_t i = 0; i < inverse.size(); ++i) {
    const double interpolate = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inverse[i] *= interpolate / config.factor + (1 - interpolate);
  }
}

double YarnMscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

double AttentionFactor(const RopeConfig& config) {
  if (config.scaling != RopeScaling::kYarn) return 1;
  if (config.attention_factor != 0) return config.attention_factor;
  if (config.mscale != 0 && config.mscale_all_dim != 0) {
    return YarnMscale(config.factor, config.mscale) /
           YarnMscale(config.factor, config.mscale_all_dim);
  }
  return YarnMscale(config.factor, 1);
}

Frequencies InverseFrequencies(const RopeConfig& config, int32_t head_dim, int32_t positions) {
  const bool dynamic = config.scaling == RopeScaling::kDynamic;
  Frequencies inverse =
      Plain(dynamic ? DynamicTheta(config, head_dim, positions) : config.theta, head_dim);
  if (config.scaling == RopeScaling::kLinear) {
    for (double& frequency : inverse) frequency /= config.factor;
  }
  if (config.scaling == RopeScaling::kLlama3) ScaleLlama3(config, inverse);
  if (config.scaling == RopeScaling::kYarn) ScaleYarn(config, head_dim, inverse);
  return inverse;
}

}  // namespace

Rotary::Rotary(const Numerics& numerics, const RopeConfig& config, int32_t head_dim,
               int32_t positions)
    : numerics_(numerics) {
  const Frequencies inverse = InverseFrequencies(config, head_dim, positions);
  const at::Tensor frequencies = at::tensor(inverse, at::kDouble).to(at::kFloat);
  const at::Tensor angles = at::outer(at::arange(positions, at::kFloat), frequencies);
  attention_factor_ = AttentionFactor(config);
  cos_ = angles.cos().mul_(attention_factor_).to(numerics.device);
  sin_ = angles.sin().mul_(attention_factor_).to(numerics.device);
}

void Rotary::Rotate(at::Tensor& x, const at::Tensor& positions) const { Apply(x, positions, 1); }

void Rotary::RotateBack(at::Tensor& dx, const at::Tensor& positions) const {
  Apply(dx, positions, -1);
}

at::Tensor Rotary::Shift(const at::Tensor& keys, int64_t by) const {
  at::Tensor shifted = keys.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true).contiguous();
  RotateBack(shifted, at::full({keys.size(0)}, by, keys.options().dtype(at::kLong)));
  // The tables' factor is in the keys already.
  return shifted.div_(attention_factor_).to(keys.scalar_type());
}

void Rotary::Apply(at::Tensor& x, const at::Tensor& positions, double direction) const {
  const int64_t half = x.size(2) / 2;
  if (numerics_.kernels != nullptr) {
    const int64_t* const position = positions.const_data_ptr<int64_t>();
    const float* const cosines = cos_.const_data_ptr<float>();
    const float* const sines = sin_.const_data_ptr<float>();
    at::parallel_for(0, x.size(0), kGrainTokens, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t place = position[i] * half;
        numerics_.kernels->rotate(CpuArray(x, i * x.stride(0)), x.size(1), x.size(2),
                                  cosines + place, sines + place, static_cast<float>(direction));
      }
    });
    return;
  }
  const at::Tensor cos = cos_.index_select(0, positions).to(x.scalar_type()).unsqueeze(1);
  const at::Tensor sin =
      sin_.index_select(0, positions).mul(direction).to(x.scalar_type()).unsqueeze(1);
  at::Tensor first = x.narrow(2, 0, half);
  at::Tensor second = x.narrow(2, half, half);
  const at::Tensor rotated = first.mul(cos).sub_(second.mul(sin));
  second.mul_(cos).add_(first.mul(sin));
  first.copy_(rotated);
}

}  // namespace mayfly
