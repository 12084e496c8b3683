#include "engine/train/loss.h"

#include <string>
#include <vector>

#include <ATen/CPUGeneratorImpl.h>

#include "gtest/gtest.h"
#include "tests/parity/tiny_model.h"

namespace mayfly {
namespace {

// Sums of a few hundred fp32 terms in another order; bfloat16 logits carry eight bits.
double Tolerance(DType dtype) { return dtype == DType::kFloat32 ? 1e-5 : 3e-2; }

class LossTest : public testing::TestWithParam<DType> {
 protected:
  LossTest()
      : tiny_(LoadTinyModel(kParityData + std::string("llama"), GetParam(), 8, 1)),
        model_(*tiny_.model) {}

  at::Tensor Hidden(int64_t n) const {
    return at::empty({n, model_.config().hidden}, at::kFloat)
        .normal_(0, 1, at::detail::createCPUGenerator(5))
        .to(tiny_.numerics.matrix);
  }
  at::Tensor Labels(int64_t n) const { return at::arange(n, at::kLong).mul(37).remainder(96); }
  at::Tensor Logprobs(const at::Tensor& hidden) const {
    return at::log_softmax(model_.Logits(hidden).to(at::kDouble), 1);
  }
  at::Tensor LabelLogprob(const at::Tensor& hidden, const at::Tensor& labels) const {
    return Logprobs(hidden).gather(1, labels.unsqueeze(1)).squeeze(1);
  }

  const c10::InferenceMode no_autograd_;
  const TinyModel tiny_;
  const CausalLm& model_;
};

// Longer than one block, and no multiple of it.
constexpr int64_t kTokens = 300;

TEST_P(LossTest, ScoresAreTheLogSoftmaxOfTheLabels) {
  const at::Tensor hidden = Hidden(kTokens), labels = Labels(kTokens);
  const std::vector<float> logprobs = LabelLogprobs(model_, hidden, labels);
  const at::Tensor expected = LabelLogprob(hidden, labels);
  ASSERT_EQ(logprobs.size(), static_cast<size_t>(kTokens));
  for (int64_t i = 0; i < kTokens; ++i) {
    EXPECT_NEAR(logprobs[static_cast<size_t>(i)], expected[i].item<double>(),
                Tolerance(GetParam()));
  }
}

TEST_P(LossTest, TheLossIsTheWeightedMean) {
  const at::Tensor hidden = Hidden(kTokens), labels = Labels(kTokens);
  const at::Tensor weights = at::arange(kTokens, at::kFloat).remainder(4);
  const double expected =
      -(LabelLogprob(hidden, labels).dot(weights.to(at::kDouble)) / weights.sum()).item<double>();
  const LossResult result = WeightedLoss(model_, hidden, labels, weights, false);
  EXPECT_NEAR(result.loss, expected, Tolerance(GetParam()));
  EXPECT_FALSE(result.dhidden.defined());
}

TEST_P(LossTest, OnlyProportionsOfWeightsCount) {
  const at::Tensor hidden = Hidden(kTokens), labels = Labels(kTokens);
  const at::Tensor ones = at::ones({kTokens}, at::kFloat);
  const LossResult a = WeightedLoss(model_, hidden, labels, ones, true);
  const LossResult b = WeightedLoss(model_, hidden, labels, ones.mul(0.25), true);
  EXPECT_NEAR(a.loss, b.loss, 1e-5);
  EXPECT_LT(RelativeError(a.dhidden, b.dhidden), Tolerance(GetParam()));
}

TEST_P(LossTest, TheGradientIsTheSoftmaxLessTheLabelThroughTheHead) {
  const at::Tensor hidden = Hidden(kTokens), labels = Labels(kTokens);
  const at::Tensor weights = at::arange(kTokens, at::kFloat).remainder(3).add(1);
  const LossResult result = WeightedLoss(model_, hidden, labels, weights, true);
  at::Tensor dlogits = Logprobs(hidden).exp();
  dlogits.sub_(at::one_hot(labels, 96)).mul_((weights / weights.sum()).unsqueeze(1));
  const at::Tensor expected =
      model_.LogitsBackward(dlogits.to(tiny_.numerics.matrix)).to(at::kDouble);
  EXPECT_LT(RelativeError(result.dhidden, expected), Tolerance(GetParam()));
}

TEST_P(LossTest, ATokenWithoutWeightIsNoLabel) {
  const at::Tensor hidden = Hidden(8);
  at::Tensor labels = Labels(8);
  at::Tensor weights = at::ones({8}, at::kFloat);
  weights[3] = 0;
  const LossResult before = WeightedLoss(model_, hidden, labels, weights, true);
  EXPECT_FALSE(before.dhidden[3].any().item<bool>());
  labels[3] = 95;
  const LossResult after = WeightedLoss(model_, hidden, labels, weights, true);
  EXPECT_EQ(before.loss, after.loss);
  EXPECT_TRUE(at::equal(before.dhidden, after.dhidden));
}

INSTANTIATE_TEST_SUITE_P(Types, LossTest, testing::Values(DType::kFloat32, DType::kBFloat16));

}  // namespace
}  // namespace mayfly
