#include "engine/train/activation_init.h"

#include <tuple>

#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/engine/tiny_engine.h"
#include "tests/parity/test_trainer.h"
#include "tests/parity/tiny_model.h"

namespace mayfly {
namespace {

constexpr int32_t kContext = 20;
constexpr int32_t kChunk = 24;

double MaxDifference(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

// [n, in] with singular values 2^-i.
at::Tensor FallingSpectrum(int64_t n, int64_t in) {
  const int64_t count = std::min(n, in);
  const at::Tensor left = std::get<0>(at::linalg_qr(at::randn({n, count}), "reduced"));
  const at::Tensor right = std::get<0>(at::linalg_qr(at::randn({in, count}), "reduced"));
  return left.mul(at::arange(count).neg().to(at::kFloat).exp2()).mm(right.t());
}

TEST(TopDirectionsTest, AreTheLeadingRightSingularVectors) {
  at::manual_seed(1);
  const at::Tensor x = FallingSpectrum(40, 24);
  const at::Tensor top = TopDirections(x, 6, 3);
  const at::Tensor exact = std::get<2>(at::linalg_svd(x, false)).narrow(0, 0, 6);
  // The sign of a singular vector is free.
  EXPECT_LT(MaxDifference(top.mul(exact).sum(1).abs(), at::ones({6})), 1e-4);
  EXPECT_LT(MaxDifference(top.mm(top.t()), at::eye(6)), 1e-5);
}

TEST(TopDirectionsTest, FewerTokensThanDirectionsStillGiveAnOrthonormalBasis) {
  at::manual_seed(1);
  const at::Tensor x = at::randn({3, 24});
  const at::Tensor top = TopDirections(x, 8, 3);
  EXPECT_LT(MaxDifference(top.mm(top.t()), at::eye(8)), 1e-5);
  EXPECT_LT(MaxDifference(x.mm(top.t()).mm(top), x), 1e-4);  // all of x lies within
}

TEST(TopDirectionsTest, TheSameSeedGivesTheSameDirections) {
  const at::Tensor x = at::randn({40, 24});
  EXPECT_TRUE(at::equal(TopDirections(x, 4, 5), TopDirections(x, 4, 5)));
}

// A row whose adapter starts from activations; context first, then the chunk.
class ActivationInitTest : public testing::Test {
 protected:
  ActivationInitTest()
      : tiny_(LoadTinyModel(absl::StrCat(kParityData, "llama_tied"), DType::kFloat32,
                            /*window_tokens=*/64, /*max_rank=*/8)),
        trainer_(tiny_),
        tokens_(RepeatedTokens(kContext + kChunk, 7, 11)) {
    spec_.rank = 4;
    spec_.alpha = 4;
    spec_.seed = 9;
    spec_.init = AdapterInit::kActivation;
    tiny_.adapters->Initialize(0, spec_);
    const AdapterView serving = tiny_.adapters->Serving(0, spec_);
    tiny_.model->Forward(at::tensor(tokens_, at::kInt).to(at::kLong).slice(0, 0, -1),
                         {{0, 0, kContext + kChunk - 1, &serving}}, *tiny_.kv);
  }

  UpdateResult Learn(double learning_rate = 1e-2) {
    UpdateJob job;
    job.row = {0, 1};
    job.work.begin = kContext;
    job.work.context.assign(tokens_.begin(), tokens_.begin() + kContext);
    job.work.tokens.assign(tokens_.begin() + kContext, tokens_.end());
    job.work.weights.assign(kChunk, 1.0f);
    job.work.optimizer.learning_rate = learning_rate;
    job.spec = spec_;
    job.state = tiny_.adapters->State(0);
    job.steps = steps_;
    job.row_begin = kContext;
    job.cancelled = std::make_shared<std::atomic<bool>>(false);
    const UpdateResult result = trainer_.Run(job);
    steps_ = result.steps;
    return result;
  }
  AdapterView Masters() const {
    return {tiny_.layout.get(), spec_, tiny_.adapters->State(0).master};
  }
  at::Tensor A(int32_t layer, Module module) const { return Masters().A(layer, module).clone(); }

  const c10::InferenceMode no_autograd_;
  const TinyModel tiny_;
  TestTrainer trainer_;
  AdapterSpec spec_;
  const std::vector<TokenId> tokens_;
  int64_t steps_ = 0;
};

TEST_F(ActivationInitTest, EveryAdaptedAIsOrthonormalAfterTheFirstChunk) {
  ASSERT_EQ(Learn(/*learning_rate=*/0).done.outcome, UpdateOutcome::kApplied);
  for (int32_t layer = 0; layer < tiny_.model->config().layers; ++layer) {
    for (const Module module : kAllModules) {
      const at::Tensor a = A(layer, module);
      EXPECT_LT(MaxDifference(a.mm(a.t()), at::eye(4)), 1e-4) << layer << ModuleName(module);
    }
  }
}

// The gradient of B is that of the new A: with it B leaves zero, and A has none yet.
TEST_F(ActivationInitTest, TheFirstStepLearnsBBehindTheNewA) {
  Learn(/*learning_rate=*/0);
  const at::Tensor from_data = A(0, Module::kQ);
  tiny_.adapters->Initialize(0, spec_);
  steps_ = 0;
  Learn();
  EXPECT_TRUE(at::equal(A(0, Module::kQ), from_data));
  EXPECT_FALSE(IsFresh(Masters()));
}

TEST_F(ActivationInitTest, WhatWasLearnedIsNeverReplaced) {
  Learn();
  const at::Tensor learned = A(0, Module::kQ);
  steps_ = 0;  // as after a return to a checkpoint
  Learn(/*learning_rate=*/0);
  EXPECT_TRUE(at::equal(A(0, Module::kQ), learned));
}

TEST_F(ActivationInitTest, LearnsTheTextBetterStepByStep) {
  const double before = Learn().done.losses.at(0);
  double after = before;
  for (int i = 0; i < 8; ++i) after = Learn().done.losses.at(0);
  EXPECT_LT(after, before - 0.1);
}

}  // namespace
}  // namespace mayfly
