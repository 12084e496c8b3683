// What every family promises beyond its reference values (tests/parity): what an adapter that does
// nothing changes, that no position sees what comes after it, and how a pass ends early.

#include <atomic>
#include <string>
#include <tuple>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/tiny_engine.h"
#include "tests/parity/tiny_model.h"

namespace mayfly {
namespace {

constexpr int64_t kTokens = 40;

class LlamaTest : public testing::TestWithParam<std::tuple<std::string, DType>> {
 protected:
  LlamaTest()
      : tiny_(LoadTinyModel(kParityData + std::get<0>(GetParam()), std::get<1>(GetParam()),
                            /*window_tokens=*/64, /*max_rank=*/8, /*rows=*/4)),
        model_(*tiny_.model) {
    tiny_.adapters->Initialize(0, Spec());
    fresh_ = tiny_.adapters->Serving(0, Spec());
    none_ = {tiny_.layout.get(), Spec(0), tiny_.adapters->State(1).serving};
    tiny_.adapters->Initialize(2, Spec());
    tiny_.adapters->State(2).serving.add_(0.01);
    trained_ = tiny_.adapters->Serving(2, Spec());
  }

  static at::Tensor Tokens(uint64_t seed = 3) {
    return at::tensor(RandomTokens(static_cast<int32_t>(kTokens), seed), at::kInt).to(at::kLong);
  }
  at::Tensor Serve(int64_t row, const at::Tensor& tokens, const AdapterView* adapter) const {
    return model_.Forward(tokens, {{row, 0, tokens.size(0), adapter}}, *tiny_.kv);
  }
  TrainingBatch Batch(const at::Tensor& tokens, const AdapterView* adapter) const {
    TrainingBatch batch;
    batch.tokens = tokens;
    batch.segments.emplace_back();
    batch.segments[0].tokens = tokens.size(0);
    batch.segments[0].adapter = adapter;
    return batch;
  }
  at::Tensor Train(const TrainingBatch& batch) const {
    TrainingTrace trace;
    return model_.TrainForward(batch, &trace);
  }

  const c10::InferenceMode no_autograd_;
  const TinyModel tiny_;
  const CausalLm& model_;
  AdapterView fresh_;
  AdapterView none_;
  AdapterView trained_;
};

TEST_P(LlamaTest, AFreshAdapterServesTheBaseModelBitForBit) {
  const at::Tensor base = Serve(0, Tokens(), nullptr);
  EXPECT_TRUE(at::equal(base, Serve(1, Tokens(), &fresh_)));
  EXPECT_TRUE(at::equal(base, Serve(2, Tokens(), &none_)));
  EXPECT_FALSE(at::equal(base, Serve(3, Tokens(), &trained_)));
}

TEST_P(LlamaTest, AFreshAdapterTrainsOnTheBaseModelBitForBitWithDropoutAndWithout) {
  const at::Tensor base = Train(Batch(Tokens(), &none_));
  EXPECT_TRUE(at::equal(base, Train(Batch(Tokens(), &fresh_))));
  TrainingBatch dropout = Batch(Tokens(), &fresh_);
  dropout.segments[0].dropout = LoraDropout(0.5, 1);
  EXPECT_TRUE(at::equal(base, Train(dropout)));
  EXPECT_FALSE(at::equal(base, Train(Batch(Tokens(), &trained_))));
}

TEST_P(LlamaTest, ServingAndTrainingComputeTheSame) {
  const double tolerance = std::get<1>(GetParam()) == DType::kFloat32 ? 1e-5 : 3e-2;
  EXPECT_LT(RelativeError(Train(Batch(Tokens(), &trained_)), Serve(0, Tokens(), &trained_)),
            tolerance);
}

TEST_P(LlamaTest, ALaterTokenChangesNothingBeforeIt) {
  at::Tensor changed = Tokens();
  constexpr int64_t kPlace = 25;
  changed[kPlace] = (changed[kPlace].item<int64_t>() + 1) % kTinyVocabulary;
  const auto expect_same_before = [&](const at::Tensor& a, const at::Tensor& b) {
    EXPECT_TRUE(at::equal(a.slice(0, 0, kPlace), b.slice(0, 0, kPlace)));
    EXPECT_FALSE(at::equal(a[kPlace], b[kPlace]));
  };
  expect_same_before(Serve(0, Tokens(), &trained_), Serve(1, changed, &trained_));
  expect_same_before(Train(Batch(Tokens(), &trained_)), Train(Batch(changed, &trained_)));
}

TEST_P(LlamaTest, TrainingAfterAPrefixLeavesItsKeysAsTheyWere) {
  Serve(0, Tokens(), &trained_);
  const at::Tensor keys = tiny_.kv->Keys(0, 0).clone();
  TrainingBatch batch = Batch(Tokens().slice(0, 20), &trained_);
  batch.segments[0].row_begin = 20;
  batch.segments[0].prefix = tiny_.kv.get();
  const at::Tensor whole = Serve(1, Tokens(), &trained_);
  const double tolerance = std::get<1>(GetParam()) == DType::kFloat32 ? 1e-5 : 3e-2;
  EXPECT_LT(RelativeError(Train(batch), whole.slice(0, 20)), tolerance);
  EXPECT_TRUE(at::equal(tiny_.kv->Keys(0, 0), keys));
}

TEST_P(LlamaTest, ACancelledPassGivesNothing) {
  std::atomic<bool> cancelled = false;
  TrainingBatch batch = Batch(Tokens(), &trained_);
  batch.proceed = [&] { return !cancelled.load(); };
  TrainingTrace trace;
  const at::Tensor hidden = model_.TrainForward(batch, &trace);
  ASSERT_TRUE(hidden.defined());
  AdapterView gradients = trained_;
  gradients.elements = at::zeros({tiny_.layout->adapter_elements()}, at::kFloat);
  batch.segments[0].gradients = &gradients;
  cancelled = true;
  EXPECT_FALSE(model_.TrainBackward(at::ones_like(hidden), batch, &trace));
  EXPECT_FALSE(gradients.elements.any().item<bool>());
  EXPECT_FALSE(Train(batch).defined());
}

TEST_P(LlamaTest, AnAdapterOfUpperLayersLearnsOnlyThere) {
  AdapterView upper = trained_;
  upper.spec.first_layer = 1;
  upper.spec.target_modules = TargetModules::kMlp;
  TrainingBatch batch = Batch(Tokens(), &upper);
  TrainingTrace trace;
  const at::Tensor hidden = model_.TrainForward(batch, &trace);
  AdapterView gradients = upper;
  gradients.elements = at::zeros({tiny_.layout->adapter_elements()}, at::kFloat);
  trace.context.segments[0].gradients = &gradients;
  ASSERT_TRUE(model_.TrainBackward(at::ones_like(hidden), batch, &trace));
  for (int32_t layer = 0; layer < tiny_.layout->layers(); ++layer) {
    for (const Module module : kAllModules) {
      const bool adapted = layer >= 1 && module >= Module::kGate;
      EXPECT_EQ(gradients.A(layer, module).any().item<bool>(), adapted) << layer;
      EXPECT_EQ(gradients.B(layer, module).any().item<bool>(), adapted) << layer;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Families, LlamaTest,
                         testing::Combine(testing::Values("llama_tied", "llama_biases", "qwen2",
                                                          "qwen3"),
                                          testing::Values(DType::kFloat32, DType::kBFloat16)));

}  // namespace
}  // namespace mayfly
