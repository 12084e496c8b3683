#include "engine/runtime/model_runner.h"

#include <string>
#include <vector>

#include "engine/device/torch_guard.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/tiny_engine.h"
#include "tests/parity/tiny_model.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int32_t kRows = 3;

class ModelRunnerTest : public testing::TestWithParam<DType> {
 protected:
  ModelRunnerTest()
      : tiny_(LoadTinyModel(kParityData + std::string("llama_tied"), GetParam(), 64, 8, kRows)),
        runner_(tiny_.model.get(), tiny_.kv.get()),
        tokens_(RandomTokens(64, 3)) {
    tiny_.adapters->Initialize(1, Spec());
    tiny_.adapters->State(1).master.add_(0.01);  // B as well, so that the adapter does something
    tiny_.adapters->Publish(1, Spec());
    adapter_ = tiny_.adapters->Serving(1, Spec());
  }

  RunSlice Slice(int64_t row, int64_t begin, int64_t count, bool adapted = false) const {
    RunSlice slice;
    slice.row = row;
    slice.row_begin = begin;
    slice.tokens =
        std::span(tokens_).subspan(static_cast<size_t>(begin), static_cast<size_t>(count));
    slice.adapter = adapted ? &adapter_ : nullptr;
    slice.want_logits = true;
    return slice;
  }
  static std::vector<float> Floats(const at::Tensor& logits) {
    return {logits.const_data_ptr<float>(), logits.const_data_ptr<float>() + logits.numel()};
  }

  const c10::InferenceMode no_autograd_;
  const TinyModel tiny_;
  const ModelRunner runner_;
  const std::vector<TokenId> tokens_;
  AdapterView adapter_;
};

TEST_P(ModelRunnerTest, GivesLogitsOnlyWhereTheyAreWanted) {
  RunSlice silent = Slice(0, 0, 4);
  silent.want_logits = false;
  const std::vector<RunOutput> outputs = runner_.Run({silent, Slice(1, 0, 4)});
  ASSERT_THAT(outputs, SizeIs(2));
  EXPECT_FALSE(outputs[0].logits.defined());
  EXPECT_THAT(outputs[0].logprobs, IsEmpty());
  ASSERT_EQ(outputs[1].logits.numel(), kTinyVocabulary);
  EXPECT_EQ(outputs[1].logits.scalar_type(), at::kFloat);
  EXPECT_NEAR(outputs[1].log_sum_exp, outputs[1].logits.logsumexp(0).item<float>(), 1e-5);
}

TEST_P(ModelRunnerTest, TargetsAreScoredByTheNewestHiddenStates) {
  // Five tokens, of which the last two predict what comes next.
  RunSlice slice = Slice(0, 0, 5);
  slice.targets = std::span(tokens_).subspan(4, 2);
  const RunOutput output = runner_.Run({slice})[0];
  ASSERT_THAT(output.logprobs, SizeIs(2));
  const auto score = [&](int64_t end) {
    const RunOutput prefix = runner_.Run({Slice(1, 0, end)})[0];
    return prefix.logits[tokens_[static_cast<size_t>(end)]].item<float>() - prefix.log_sum_exp;
  };
  const double tolerance = GetParam() == DType::kFloat32 ? 1e-5 : 5e-2;
  EXPECT_NEAR(output.logprobs[0], score(4), tolerance);
  EXPECT_NEAR(output.logprobs[1], score(5), tolerance);
}

// Up to sixteen tokens a step go through kernels whose elements do not depend on what else is in
// the batch; beyond, the library's products may choose another order of summation.
TEST_P(ModelRunnerTest, ARowGivesTheSameBitsWhateverElseIsInTheStep) {
  const RunOutput alone = runner_.Run({Slice(0, 0, 5)})[0];
  const std::vector<RunOutput> together =
      runner_.Run({Slice(1, 0, 7, /*adapted=*/true), Slice(0, 0, 5), Slice(2, 0, 3)});
  EXPECT_TRUE(SameBits(Floats(alone.logits), Floats(together[1].logits)));
  const RunOutput next_alone = runner_.Run({Slice(0, 5, 1)})[0];
  const std::vector<RunOutput> next =
      runner_.Run({Slice(0, 5, 1), Slice(1, 7, 1, /*adapted=*/true)});
  EXPECT_TRUE(SameBits(Floats(next_alone.logits), Floats(next[0].logits)));
}

TEST_P(ModelRunnerTest, AnAdapterChangesItsOwnRowAndNoOther) {
  const std::vector<RunOutput> base = runner_.Run({Slice(0, 0, 5), Slice(1, 0, 5)});
  const std::vector<RunOutput> adapted =
      runner_.Run({Slice(0, 0, 5), Slice(1, 0, 5, /*adapted=*/true)});
  EXPECT_TRUE(SameBits(Floats(base[0].logits), Floats(adapted[0].logits)));
  EXPECT_FALSE(SameBits(Floats(base[1].logits), Floats(adapted[1].logits)));
}

TEST_P(ModelRunnerTest, WritesTheKeysOfItsSliceAndNothingElse) {
  runner_.Run({Slice(1, 0, 5)});
  EXPECT_TRUE(tiny_.kv->IsZero(0) && tiny_.kv->IsZero(2));
  EXPECT_FALSE(tiny_.kv->IsZero(1));
  const at::Tensor keys = tiny_.kv->Keys(1, 0);
  EXPECT_FALSE(keys.slice(1, 5).any().item<bool>());
  const at::Tensor before = keys.slice(1, 0, 5).clone();
  runner_.Run({Slice(1, 5, 3)});
  EXPECT_TRUE(at::equal(keys.slice(1, 0, 5), before));
}

TEST_P(ModelRunnerTest, ATokenOutsideTheVocabularyThrowsWhatTheGuardCatches) {
  const std::vector<TokenId> bad = {kTinyVocabulary};
  RunSlice slice = Slice(0, 0, 1);
  slice.tokens = bad;
  EXPECT_THAT(RunGuarded("step", [&] { runner_.Run({slice}); }),
              HasCode(absl::StatusCode::kInternal));
}

INSTANTIATE_TEST_SUITE_P(Types, ModelRunnerTest,
                         testing::Values(DType::kFloat32, DType::kBFloat16));

}  // namespace
}  // namespace mayfly
