#include "engine/train/trainer.h"

#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "engine/train/loss.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/hooked_model.h"
#include "tests/engine/tiny_engine.h"
#include "tests/parity/test_trainer.h"
#include "tests/parity/tiny_model.h"

namespace mayfly {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::SizeIs;

constexpr int32_t kContext = 20;
constexpr int32_t kChunk = 24;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// A row with an adapter and a text to learn: kContext tokens, then the chunk.
class TrainerTest : public testing::Test {
 protected:
  explicit TrainerTest(const AdapterSpec& spec = Spec())
      : tiny_(LoadTinyModel(kParityData + std::string("llama_tied"), DType::kFloat32,
                            /*window_tokens=*/64, /*max_rank=*/8)),
        trainer_(std::make_unique<TestTrainer>(tiny_)),
        spec_(spec),
        tokens_(RepeatedTokens(kContext + kChunk, 7, 11)) {
    Refill();
  }

  // The fresh adapter, and the keys of all tokens but the newest under it.
  void Refill() {
    tiny_.adapters->Zero(0, spec_);
    tiny_.adapters->Initialize(0, spec_);
    serving_ = tiny_.adapters->Serving(0, spec_);
    tiny_.model->Forward(Ids(tokens_).slice(0, 0, -1), {{0, 0, kContext + kChunk - 1, &serving_}},
                         *tiny_.kv);
  }
  static at::Tensor Ids(const std::vector<TokenId>& tokens) {
    return at::tensor(tokens, at::kInt).to(at::kLong);
  }

  // Learns the chunk. The one place that knows how a job is made and run.
  UpdateResult Run(const UpdateWork& work, std::shared_ptr<std::atomic<bool>> cancelled = nullptr) {
    UpdateJob job;
    job.row = {0, 1};
    job.work = work;
    job.spec = spec_;
    job.state = tiny_.adapters->State(0);
    job.steps = steps_;
    job.row_begin = kContext;
    job.cancelled = cancelled ? cancelled : std::make_shared<std::atomic<bool>>(false);
    const UpdateResult result = trainer_->Run(job);
    steps_ = result.steps;
    return result;
  }
  UpdateWork Work(GradientScope scope = GradientScope::kChunk) const {
    UpdateWork work;
    work.begin = kContext;
    work.context.assign(tokens_.begin(), tokens_.begin() + kContext);
    work.tokens.assign(tokens_.begin() + kContext, tokens_.end());
    work.weights.assign(kChunk, 1.0f);
    work.gradient_scope = scope;
    work.optimizer.learning_rate = 1e-2;
    work.grad_clip = 1.0;
    return work;
  }

  void LearnWell() {
    UpdateWork work = Work();
    work.epochs = 20;
    ASSERT_EQ(Run(work).done.outcome, UpdateOutcome::kApplied);
  }
  // A step far too long.
  UpdateWork RuinousWork() const {
    UpdateWork work = Work();
    work.optimizer.learning_rate = 100;
    work.measure_after = true;
    return work;
  }

  AdapterState State() const { return tiny_.adapters->State(0); }
  // Masters and moments, in one tensor.
  at::Tensor Learned() const { return at::cat({State().master, State().moment1, State().moment2}); }
  // The chunk's log-probabilities under the adapter in service.
  std::vector<float> Scores() const {
    const at::Tensor hidden = tiny_.model->Forward(
        Ids(tokens_).slice(0, 0, -1), {{1, 0, kContext + kChunk - 1, &serving_}}, *tiny_.kv);
    return LabelLogprobs(*tiny_.model, hidden.slice(0, kContext - 1),
                         Ids(tokens_).slice(0, kContext));
  }

  const c10::InferenceMode no_autograd_;
  const TinyModel tiny_;
  const std::unique_ptr<TestTrainer> trainer_;
  AdapterSpec spec_;
  const std::vector<TokenId> tokens_;
  AdapterView serving_;
  int64_t steps_ = 0;
};

class ScopeTest : public TrainerTest, public testing::WithParamInterface<GradientScope> {};
INSTANTIATE_TEST_SUITE_P(Scopes, ScopeTest,
                         testing::Values(GradientScope::kWindow, GradientScope::kChunk));

TEST_P(ScopeTest, LossesFallOnARepeatedText) {
  UpdateWork work = Work(GetParam());
  work.epochs = 10;
  work.measure_after = true;
  work.gate = true;
  const UpdateDone done = Run(work).done;
  ASSERT_EQ(done.outcome, UpdateOutcome::kApplied) << done.reason;
  ASSERT_THAT(done.losses, SizeIs(11));
  EXPECT_THAT(done.gradient_norms, SizeIs(10));
  EXPECT_LT(done.losses.back(), done.losses.front() - 0.5);
  EXPECT_EQ(steps_, 10);
  EXPECT_EQ(trainer_->metrics().trained_tokens.value(), 10u * kChunk);
}

TEST_P(ScopeTest, TheFirstLossIsTheScoreOfTheChunkAndTheContextIsNoLabel) {
  const std::vector<float> scores = Scores();
  double nll = 0;
  for (const float score : scores) nll -= score;
  const UpdateDone done = Run(Work(GetParam())).done;
  EXPECT_EQ(done.label_tokens, kChunk);
  EXPECT_NEAR(done.losses.at(0), nll / kChunk, 1e-4);
}

TEST_P(ScopeTest, OnlyTokensWithWeightAreLabels) {
  const std::vector<float> scores = Scores();
  UpdateWork work = Work(GetParam());
  double nll = 0, total = 0;
  for (size_t i = 0; i < scores.size(); ++i) {
    work.weights[i] = static_cast<float>(i % 3);
    nll -= work.weights[i] * scores[i];
    total += work.weights[i];
  }
  const UpdateDone done = Run(work).done;
  EXPECT_EQ(done.label_tokens, kChunk * 2 / 3);
  EXPECT_NEAR(done.losses.at(0), nll / total, 1e-4);
}

TEST_P(ScopeTest, WithoutAContextTheFirstTokenIsNoLabel) {
  UpdateWork work = Work(GetParam());
  work.context.clear();
  const UpdateDone done = Run(work).done;
  EXPECT_EQ(done.outcome, UpdateOutcome::kApplied) << done.reason;
  EXPECT_EQ(done.label_tokens, kChunk - 1);
}

TEST_P(ScopeTest, ServingWeightsAreLeftForTheLoopToPublish) {
  const at::Tensor serving = State().serving.clone();
  ASSERT_EQ(Run(Work(GetParam())).done.outcome, UpdateOutcome::kApplied);
  EXPECT_TRUE(at::equal(State().serving, serving));
  EXPECT_FALSE(at::equal(State().master, serving));
}

TEST_P(ScopeTest, TheSameUpdateGivesTheSameBits) {
  UpdateWork work = Work(GetParam());
  work.dropout = 0.3;
  work.epochs = 3;
  Run(work);
  const at::Tensor first = Learned();
  steps_ = 0;
  Refill();
  Run(work);
  EXPECT_TRUE(at::equal(Learned(), first));
}

TEST_F(TrainerTest, LearningRateZeroMovesNoMasterAndFillsTheMoments) {
  const at::Tensor master = State().master.clone();
  UpdateWork work = Work();
  work.optimizer.learning_rate = 0;
  work.epochs = 3;
  work.measure_after = true;
  const UpdateDone done = Run(work).done;
  EXPECT_TRUE(at::equal(State().master, master));
  EXPECT_TRUE(State().moment1.any().item<bool>());
  for (const double loss : done.losses) EXPECT_EQ(loss, done.losses.front());
}

TEST_F(TrainerTest, ARisenLossIsDroppedAndLeavesMastersAndMomentsBitForBit) {
  LearnWell();  // so that there is something to lose
  const int64_t steps = steps_;
  const at::Tensor before = Learned();
  UpdateWork work = RuinousWork();
  work.gate = true;
  const UpdateResult result = Run(work);
  EXPECT_EQ(result.done.outcome, UpdateOutcome::kSkipped);
  EXPECT_THAT(result.done.reason, HasSubstr("rose"));
  EXPECT_TRUE(at::equal(Learned(), before));
  EXPECT_EQ(result.steps, steps);
}

TEST_F(TrainerTest, WithTheGateOffTheSameUpdateIsKept) {
  LearnWell();
  const UpdateDone done = Run(RuinousWork()).done;
  EXPECT_EQ(done.outcome, UpdateOutcome::kApplied);
  EXPECT_GT(done.losses.back(), done.losses.front());
}

TEST_F(TrainerTest, LossWeightsThatAreNoNumbersFailAndChangeNothing) {
  Run(Work());
  const at::Tensor before = Learned();
  UpdateWork work = Work();
  work.weights[3] = kNan;
  EXPECT_EQ(Run(work).done.outcome, UpdateOutcome::kFailed);
  EXPECT_TRUE(at::equal(Learned(), before));
  work.weights.assign(kChunk, 0.0f);  // no label at all: the mean of nothing
  EXPECT_EQ(Run(work).done.outcome, UpdateOutcome::kFailed);
  EXPECT_TRUE(at::equal(Learned(), before));
  EXPECT_EQ(steps_, 1);
}

TEST_F(TrainerTest, AnAdapterThatIsNoNumberFailsAndIsNotTouched) {
  State().master[0] = kNan;
  const UpdateDone done = Run(Work()).done;
  EXPECT_EQ(done.outcome, UpdateOutcome::kFailed);
  EXPECT_THAT(done.reason, HasSubstr("not finite"));
  EXPECT_TRUE(std::isnan(State().master[0].item<float>()));
  EXPECT_FALSE(State().master.slice(0, 1).isnan().any().item<bool>());
  EXPECT_FALSE(State().moment1.any().item<bool>());
}

TEST_F(TrainerTest, WorkThatMakesNoSenseFailsAndChangesNothing) {
  const at::Tensor before = Learned();
  UpdateWork work = Work();
  work.weights.pop_back();
  EXPECT_EQ(Run(work).done.outcome, UpdateOutcome::kFailed);
  work = Work();
  work.tokens[0] = kTinyVocabulary;
  EXPECT_EQ(Run(work).done.outcome, UpdateOutcome::kFailed);
  EXPECT_TRUE(at::equal(Learned(), before));
  EXPECT_EQ(Run(Work()).done.outcome, UpdateOutcome::kApplied);  // the trainer goes on
}

TEST_F(TrainerTest, ACancelledUpdateIsSkippedAndChangesNothing) {
  Run(Work());
  const at::Tensor before = Learned();
  const UpdateResult result = Run(Work(), std::make_shared<std::atomic<bool>>(true));
  EXPECT_EQ(result.done.outcome, UpdateOutcome::kSkipped);
  EXPECT_EQ(result.done.reason, "cancelled");
  EXPECT_TRUE(at::equal(Learned(), before));
  EXPECT_EQ(result.steps, 1);
}

TEST_F(TrainerTest, DropoutFollowsTheSeed) {
  // A's gradient is zero while B is, so the first step is the same for any A; the masks differ.
  UpdateWork work = Work();
  work.dropout = 0.5;
  const auto learn = [&](uint64_t seed, double dropout) {
    steps_ = 0;
    spec_.seed = 1;
    Refill();
    spec_.seed = seed;
    work.dropout = dropout;
    Run(work);
    return Learned();
  };
  const at::Tensor first = learn(1, 0.5);
  EXPECT_TRUE(at::equal(learn(1, 0.5), first));
  EXPECT_FALSE(at::equal(learn(2, 0.5), first));
  EXPECT_FALSE(at::equal(learn(1, 0), first));
}

TEST_F(TrainerTest, EveryStepHasItsOwnMask) {
  UpdateWork work = Work();
  work.dropout = 0.5;
  work.optimizer.learning_rate = 0;
  Run(work);  // so that only the mask differs between the steps that follow
  State().master.add_(0.05);
  const double first = Run(work).done.losses.at(0);
  const double second = Run(work).done.losses.at(0);
  EXPECT_NE(first, second);
  steps_ -= 1;
  EXPECT_EQ(Run(work).done.losses.at(0), second);
}

TEST_F(TrainerTest, TheLossAfterwardsIsMeasuredWithoutDropout) {
  State().master.add_(0.05);
  UpdateWork work = Work();
  work.optimizer.learning_rate = 0;
  work.dropout = 0.5;
  work.measure_after = true;
  const double measured = Run(work).done.losses.back();
  work.dropout = 0;
  EXPECT_EQ(Run(work).done.losses.front(), measured);
}

TEST_F(TrainerTest, TheStepIsMadeFromTheClippedGradientAndTheNormIsReportedBefore) {
  UpdateWork work = Work();
  work.grad_clip = 0;
  work.optimizer.learning_rate = 0;
  const double norm = Run(work).done.gradient_norms.at(0);
  // The first moment after one step is (1 - beta1) times the gradient.
  EXPECT_NEAR(State().moment1.norm().item<double>(), 0.1 * norm, 1e-5 * norm);
  steps_ = 0;
  Refill();
  work.grad_clip = norm / 8;
  EXPECT_EQ(Run(work).done.gradient_norms.at(0), norm);
  EXPECT_NEAR(State().moment1.norm().item<double>(), 0.1 * norm / 8, 1e-5 * norm);
}

// Rank below the largest, some layers, some modules.
struct PartialCase {
  TargetModules targets;
  int32_t first_layer;
  int32_t rank;
};
class PartialAdapterTest : public TrainerTest, public testing::WithParamInterface<PartialCase> {
 protected:
  static AdapterSpec PartialSpec() {
    AdapterSpec spec = Spec(GetParam().rank);
    spec.target_modules = GetParam().targets;
    spec.first_layer = GetParam().first_layer;
    return spec;
  }
  PartialAdapterTest() : TrainerTest(PartialSpec()) {}
};

TEST_P(PartialAdapterTest, ExactlyItsOwnTensorsLearn) {
  UpdateWork work = Work();
  work.epochs = 2;  // A learns from the second step on, when B is no longer zero
  ASSERT_EQ(Run(work).done.outcome, UpdateOutcome::kApplied);
  for (const at::Tensor& part : {State().master, State().moment1, State().moment2}) {
    at::Tensor unused = part.clone();
    for (int32_t layer = 0; layer < tiny_.layout->layers(); ++layer) {
      for (const Module module : kAllModules) {
        const AdapterView view{tiny_.layout.get(), spec_, unused};
        if (!view.Adapts(layer, module)) continue;
        EXPECT_TRUE(view.A(layer, module).any().item<bool>()) << layer << ModuleName(module);
        EXPECT_TRUE(view.B(layer, module).any().item<bool>()) << layer << ModuleName(module);
        view.A(layer, module).zero_();
        view.B(layer, module).zero_();
      }
    }
    EXPECT_FALSE(unused.any().item<bool>());
  }
}

INSTANTIATE_TEST_SUITE_P(Parts, PartialAdapterTest,
                         testing::Values(PartialCase{TargetModules::kAll, 0, 8},
                                         PartialCase{TargetModules::kAll, 2, 1},
                                         PartialCase{TargetModules::kAttention, 0, 3},
                                         PartialCase{TargetModules::kMlp, 1, 3}));

// ---- Groups ------------------------------------------------------------------------------------

TEST(TrainerGroupTest, WhatFailsInAGroupIsAnsweredOnceEachBesideWhatWasCancelled) {
  const c10::InferenceMode no_autograd;
  TinyModel tiny = LoadTinyModel(kParityData + std::string("llama_tied"), DType::kFloat32,
                                 /*window_tokens=*/64, /*max_rank=*/8, /*rows=*/3);
  auto model = std::make_unique<HookedModel>(std::move(tiny.model));
  model->hooks().train_backward = [](const TrainingBatch&) { throw std::bad_alloc(); };
  tiny.model = std::move(model);
  TestTrainer trainer(tiny);
  std::vector<UpdateJob> group;
  for (int32_t row = 0; row < 3; ++row) {
    tiny.adapters->Initialize(row, Spec());
    UpdateJob& job = group.emplace_back();
    job.row = {row, 1};
    job.id = static_cast<WorkId>(row);
    job.work.tokens = RandomTokens(kChunk, 1);
    job.work.weights.assign(kChunk, 1.0f);
    job.spec = Spec();
    job.state = tiny.adapters->State(row);
    job.cancelled = std::make_shared<std::atomic<bool>>(row == 0);
  }
  std::map<WorkId, std::vector<UpdateOutcome>> outcomes;
  for (const UpdateResult& result : trainer.RunGroup(group)) {
    outcomes[result.id].push_back(result.done.outcome);
  }
  EXPECT_THAT(outcomes, ElementsAre(Pair(0, ElementsAre(UpdateOutcome::kSkipped)),
                                    Pair(1, ElementsAre(UpdateOutcome::kFailed)),
                                    Pair(2, ElementsAre(UpdateOutcome::kFailed))));
}

}  // namespace
}  // namespace mayfly
