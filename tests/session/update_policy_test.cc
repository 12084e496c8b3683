#include "session/update_policy.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mayfly {
namespace {

using testing::DoubleEq;
using testing::ElementsAre;
using testing::Optional;

AdaptationOptions SmallOptions() {
  AdaptationOptions options;
  options.chunk_tokens = 4;
  options.context_tokens = 3;
  return options;
}

TokenHistory Tokens(int count) {
  TokenHistory history;
  for (TokenId id = 0; id < count; ++id) {
    history.Append({.id = id, .logprob = -1, .base_logprob = -2});
  }
  return history;
}

TEST(UpdatePolicyTest, TheClientsTextIsLearnedAtFullWeightAndOwnOutputAtItsOption) {
  AdaptationOptions options;
  options.output_weight = 0.25;
  EXPECT_EQ(LabelWeight({.origin = TokenOrigin::kInput}, 1, options), 1.0f);
  EXPECT_EQ(LabelWeight({.origin = TokenOrigin::kOutput}, 1, options), 0.25f);
}

TEST(UpdatePolicyTest, TheFirstTokenOfAStreamIsNeverALabel) {
  EXPECT_EQ(LabelWeight({}, 0, {}), 0.0f);
}

TEST(UpdatePolicyTest, WhatTheClientWithholdsIsNotLearned) {
  EXPECT_EQ(LabelWeight({.learn = false}, 1, {}), 0.0f);
}

TEST(UpdatePolicyTest, LearnFromChoosesWhoseTokensAreLabels) {
  AdaptationOptions options;
  options.learn_from = LearnFrom::kInput;
  EXPECT_EQ(LabelWeight({.origin = TokenOrigin::kOutput}, 1, options), 0.0f);
  EXPECT_EQ(LabelWeight({.origin = TokenOrigin::kInput}, 1, options), 1.0f);
  options.learn_from = LearnFrom::kOutput;
  EXPECT_EQ(LabelWeight({.origin = TokenOrigin::kOutput}, 1, options), 1.0f);
  EXPECT_EQ(LabelWeight({.origin = TokenOrigin::kInput}, 1, options), 0.0f);
}

TEST(UpdatePolicyTest, WarmUpTrainsTheFirstChunkAtZeroAndTheThirdAtFullRate) {
  AdaptationOptions options;
  options.optimizer.learning_rate = 5e-5;
  options.warmup_chunks = 2;
  EXPECT_EQ(LearningRate(options, 0), 0);
  EXPECT_DOUBLE_EQ(LearningRate(options, 1), 2.5e-5);
  EXPECT_EQ(LearningRate(options, 2), 5e-5);
  EXPECT_EQ(LearningRate(options, 100), 5e-5);
}

TEST(UpdatePolicyTest, WithoutWarmUpTheFirstChunkTrainsAtFullRate) {
  AdaptationOptions options;
  EXPECT_EQ(LearningRate(options, 0), options.optimizer.learning_rate);
}

TEST(UpdatePolicyTest, AChunkComesWithTheContextBeforeIt) {
  const auto update = PlanUpdate(Tokens(8), {4, 8}, 1, 1, SmallOptions());
  ASSERT_TRUE(update);
  EXPECT_EQ(update->begin, 4u);
  EXPECT_THAT(update->tokens, ElementsAre(4, 5, 6, 7));
  EXPECT_THAT(update->weights, ElementsAre(1, 1, 1, 1));
  EXPECT_THAT(update->context, ElementsAre(1, 2, 3));
}

TEST(UpdatePolicyTest, TheFirstChunkHasNoContextAndItsFirstTokenNoWeight) {
  const auto update = PlanUpdate(Tokens(4), {0, 4}, 0, 0, SmallOptions());
  ASSERT_TRUE(update);
  EXPECT_THAT(update->weights, ElementsAre(0, 1, 1, 1));
  EXPECT_TRUE(update->context.empty());
}

TEST(UpdatePolicyTest, AnUpdateCarriesTheOptionsOfItsSession) {
  AdaptationOptions options = SmallOptions();
  options.epochs = 3;
  options.gradient_scope = GradientScope::kWindow;
  options.warmup_chunks = 4;
  options.grad_clip = 0.5;
  options.dropout = 0.1;
  options.receipt = true;
  options.gate = false;
  const auto update = PlanUpdate(Tokens(8), {4, 8}, 7, 1, options);
  ASSERT_TRUE(update);
  EXPECT_EQ(update->chunk_index, 7u);
  EXPECT_EQ(update->epochs, 3);
  EXPECT_EQ(update->gradient_scope, GradientScope::kWindow);
  EXPECT_DOUBLE_EQ(update->optimizer.learning_rate, options.optimizer.learning_rate / 4);
  EXPECT_EQ(update->grad_clip, 0.5);
  EXPECT_EQ(update->dropout, 0.1);
  EXPECT_TRUE(update->measure_after);
  EXPECT_FALSE(update->gate);
}

TEST(UpdatePolicyTest, AChunkWithoutLabelsIsNoUpdate) {
  AdaptationOptions options = SmallOptions();
  options.learn_from = LearnFrom::kOutput;
  EXPECT_FALSE(PlanUpdate(Tokens(8), {4, 8}, 1, 1, options));
}

TEST(UpdatePolicyTest, AMeanNeedsEveryTokenButTheFirstOfTheStream) {
  TokenHistory history;
  history.Append({.id = 0});
  history.Append({.id = 1, .logprob = -1, .base_logprob = -2});
  history.Append({.id = 2, .logprob = -2});
  const ChunkScore score = ScoreOf(history, {0, 3});
  EXPECT_THAT(score.nll, Optional(DoubleEq(1.5)));
  EXPECT_FALSE(score.base_nll);
  EXPECT_FALSE(ScoreOf(history, {0, 1}).nll);
}

TEST(UpdatePolicyTest, OnlyWhatTheBaseHasNotSeenIsMissing) {
  TokenHistory history = Tokens(8);
  EXPECT_FALSE(MissingBaseScores(history, {0, 8}));
  history.SetBaseLogprob(0, NAN);
  EXPECT_FALSE(MissingBaseScores(history, {0, 8})) << "nothing predicts the first token";
  history.SetBaseLogprob(3, NAN);
  history.SetBaseLogprob(5, NAN);
  EXPECT_EQ(MissingBaseScores(history, {0, 8}), (TokenSpan{3, 6}));
  EXPECT_FALSE(MissingBaseScores(history, {6, 8}));
}

}  // namespace
}  // namespace mayfly
