#include "engine/train/adamw.h"

#include <cmath>
#include <vector>

#include <ATen/CPUGeneratorImpl.h>

#include "gtest/gtest.h"

namespace mayfly {
namespace {

constexpr int64_t kElements = 20;
const std::vector<Span> kSpans = {{2, 5}, {10, 4}};

at::Tensor Random(uint64_t seed) {
  return at::empty({kElements}, at::kFloat).uniform_(-1, 1, at::detail::createCPUGenerator(seed));
}

AdapterState RandomState() {
  AdapterState state;
  state.master = Random(1);
  state.moment1 = Random(2);
  state.moment2 = Random(3).abs();
  return state;
}

bool Used(int64_t i) { return (i >= 2 && i < 7) || (i >= 10 && i < 14); }

class AdamWTest : public testing::Test {
 protected:
  const c10::InferenceMode no_autograd_;
};

TEST_F(AdamWTest, TheNormIsThatOfTheSpansTogether) {
  const at::Tensor gradients = Random(4);
  double sum = 0;
  for (int64_t i = 0; i < kElements; ++i) {
    if (Used(i)) sum += std::pow(gradients[i].item<double>(), 2);
  }
  EXPECT_NEAR(GradientNorm(gradients, kSpans), std::sqrt(sum), 1e-6);
}

TEST_F(AdamWTest, ClippingScalesToTheLimitAndTouchesOnlyTheSpans) {
  at::Tensor gradients = Random(4);
  const at::Tensor before = gradients.clone();
  const double norm = GradientNorm(gradients, kSpans);
  ClipGradients(gradients, kSpans, norm, norm / 4);
  EXPECT_NEAR(GradientNorm(gradients, kSpans), norm / 4, 1e-5);
  for (int64_t i = 0; i < kElements; ++i) {
    const double scale = Used(i) ? norm / 4 / (norm + 1e-6) : 1;
    EXPECT_NEAR(gradients[i].item<double>(), before[i].item<double>() * scale, 1e-7) << i;
  }
}

TEST_F(AdamWTest, WhatIsBelowTheLimitOrHasNoneKeepsItsBits) {
  at::Tensor gradients = Random(4);
  const at::Tensor before = gradients.clone();
  const double norm = GradientNorm(gradients, kSpans);
  ClipGradients(gradients, kSpans, norm, 2 * norm);
  EXPECT_TRUE(at::equal(gradients, before));
  ClipGradients(gradients, kSpans, norm, /*max_norm=*/0);
  EXPECT_TRUE(at::equal(gradients, before));
}

// Loshchilov and Hutter's algorithm 2, in double.
void ExpectSteps(const AdamWOptions& options) {
  const AdapterState state = RandomState();
  const AdapterState start = {
      {}, {}, state.master.clone(), state.moment1.clone(), state.moment2.clone(), {}};
  const at::Tensor gradients = Random(4);
  for (int64_t step = 1; step <= 3; ++step) {
    AdamWStep(options, step, kSpans, gradients, state);
  }
  for (int64_t i = 0; i < kElements; ++i) {
    double p = start.master[i].item<double>(), m = start.moment1[i].item<double>(),
           v = start.moment2[i].item<double>();
    const double g = gradients[i].item<double>();
    for (int step = 1; step <= 3 && Used(i); ++step) {
      p -= options.learning_rate * options.weight_decay * p;
      m = options.beta1 * m + (1 - options.beta1) * g;
      v = options.beta2 * v + (1 - options.beta2) * g * g;
      const double m_hat = m / (1 - std::pow(options.beta1, step));
      const double v_hat = v / (1 - std::pow(options.beta2, step));
      p -= options.learning_rate * m_hat / (std::sqrt(v_hat) + options.eps);
    }
    EXPECT_NEAR(state.master[i].item<double>(), p, 1e-5) << i;
    EXPECT_NEAR(state.moment1[i].item<double>(), m, 1e-6) << i;
    EXPECT_NEAR(state.moment2[i].item<double>(), v, 1e-6) << i;
  }
}

TEST_F(AdamWTest, StepsFollowThePaper) { ExpectSteps({.learning_rate = 0.05}); }

TEST_F(AdamWTest, WeightDecayIsDecoupled) {
  ExpectSteps({.learning_rate = 0.05, .weight_decay = 0.1});
}

TEST_F(AdamWTest, WithoutTheFirstMomentTheGradientAloneDecides) {
  ExpectSteps({.learning_rate = 0.05, .beta1 = 0});
}

TEST_F(AdamWTest, LearningRateZeroMovesNoMasterButFillsTheMoments) {
  const AdapterState state = RandomState();
  const at::Tensor master = state.master.clone(), moment1 = state.moment1.clone();
  AdamWStep({.learning_rate = 0, .weight_decay = 0.1}, 1, kSpans, Random(4), state);
  EXPECT_TRUE(at::equal(state.master, master));
  EXPECT_FALSE(at::equal(state.moment1, moment1));
}

}  // namespace
}  // namespace mayfly
