// A row whose lower layers are kept computes what any other row does, from its first adapted layer
// on.

#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/tiny_engine.h"
#include "tests/parity/tiny_model.h"

namespace mayfly {
namespace {

using ::testing::Each;
using ::testing::IsEmpty;
using ::testing::Not;

// One layer below the adapter, two above.
AdapterSpec Upper() {
  AdapterSpec spec = Spec();
  spec.first_layer = 1;
  return spec;
}

TinyEngineOptions Keeping() { return {.keep_lower_layers = true}; }

// Whether each segment of a row's passes resumed, as they come.
std::vector<bool> RecordResumes(TinyEngine& engine, const std::function<void()>& work) {
  std::vector<bool> resumed;
  engine.hooks().forward = [&](const std::vector<ForwardSegment>& segments) {
    for (const ForwardSegment& segment : segments) resumed.push_back(segment.resumes);
  };
  work();
  engine.hooks().forward = nullptr;
  return resumed;
}

std::vector<float> ScoresAfter(TestRow& row, const std::function<void()>& change) {
  row.Prefill(RepeatedTokens(32, 8, 1));
  change();
  return row.Prefill(RandomTokens(16, 9)).logprobs;
}

TEST(LowerLayersTest, ARefreshComputesNoneOfThem) {
  TinyEngine engine(Keeping());
  TestRow row(&engine, Upper());
  row.Prefill(RepeatedTokens(40, 8, 1));
  EXPECT_THAT(RecordResumes(engine, [&] { row.Refresh(24); }),
              testing::AllOf(Not(IsEmpty()), Each(true)));
}

TEST(LowerLayersTest, NothingIsKeptWithoutTheOption) {
  TinyEngine engine;
  TestRow row(&engine, Upper());
  row.Prefill(RepeatedTokens(40, 8, 1));
  EXPECT_THAT(RecordResumes(engine, [&] { row.Refresh(24); }),
              testing::AllOf(Not(IsEmpty()), Each(false)));
}

// A window that does not move holds the same keys either way.
TEST(LowerLayersTest, ARefreshInPlaceGivesTheSameScores) {
  const auto scores = [](const TinyEngineOptions& options) {
    TinyEngine engine(options);
    TestRow row(&engine, Upper());
    return ScoresAfter(row, [&] {
      row.Update(row.Lesson(16, 16));
      row.Refresh(32);
    });
  };
  EXPECT_LT(GreatestDifference(scores(Keeping()), scores({})), 1e-4);
}

// Kept or computed for the chunk, what is learned is the same where the context is all that the
// row holds.
TEST(LowerLayersTest, AnUpdateLearnsTheSame) {
  const auto learn = [](const TinyEngineOptions& options) {
    TinyEngine engine(options);
    TestRow row(&engine, Upper());
    row.Prefill(RepeatedTokens(40, 8, 1));
    UpdateWork lesson = row.Lesson(16, 24);
    lesson.epochs = 3;
    return row.Update(lesson);
  };
  const UpdateDone kept = learn(Keeping()), computed = learn({});
  ASSERT_EQ(kept.outcome, UpdateOutcome::kApplied);
  for (size_t i = 0; i < 3; ++i) {
    EXPECT_NEAR(kept.losses[i], computed.losses[i], 1e-5);
    EXPECT_NEAR(kept.gradient_norms[i], computed.gradient_norms[i],
                1e-4 * computed.gradient_norms[i]);
  }
}

// The base model's row takes the lower layers over, so a fresh adapter changes no bit, however
// often the window has moved.
TEST(LowerLayersTest, AFreshAdapterScoresAsTheBaseDoesAfterTheWindowHasMoved) {
  TinyEngine engine(Keeping());
  TestRow row(&engine, Upper());
  row.Prefill(RandomTokens(40, 2));
  for (uint64_t i = 0; i < 3; ++i) {
    row.Refresh(24);
    const Scored scored = row.Prefill(RandomTokens(20, 10 + i), true, /*score_base=*/true);
    EXPECT_LT(GreatestDifference(scored.logprobs, scored.base_logprobs), 1e-5) << i;
  }
}

TEST(LowerLayersTest, AComparisonComputesNoneOfThem) {
  TinyEngine engine(Keeping());
  TestRow row(&engine, Upper());
  const std::vector<bool> resumed =
      RecordResumes(engine, [&] { row.Prefill(RandomTokens(16, 2), true, /*score_base=*/true); });
  EXPECT_THAT(resumed, testing::ElementsAre(false, true));
}

TEST(LowerLayersTest, AClosedRowLeavesNothing) {
  TinyEngine engine(Keeping());
  TestRow row(&engine, Upper());
  row.Prefill(RandomTokens(40, 2), true, /*score_base=*/true);
  row.Refresh(24);
  row.Close();
  EXPECT_TRUE(engine.IsZero());
}

class MoveLowerTest : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Scalings, MoveLowerTest,
                         testing::Values("llama_tied", "rope_llama3", "rope_linear", "rope_yarn",
                                         "rope_yarn_mscale", "qwen3"));

// The lowest layer's keys and values depend on their token and its position alone, so those that
// were moved are those of the shorter window.
TEST_P(MoveLowerTest, KeysAreRotatedForTheirNewPositions) {
  const c10::InferenceMode no_autograd;
  const TinyModel tiny = LoadTinyModel(kParityData + GetParam(), DType::kFloat32, 64, 8, 2,
                                       /*keep_lower_layers=*/true);
  const at::Tensor tokens = at::tensor(RandomTokens(40, 3), at::kInt).to(at::kLong);
  const auto feed = [&](int64_t row, const at::Tensor& ids) {
    tiny.model->Forward(ids, {{.row = row, .tokens = ids.size(0), .first_layer = 1}}, *tiny.kv);
  };
  feed(0, tokens);
  feed(1, tokens.slice(0, 15));
  tiny.model->MoveLowerToFront(0, 15, 25, 1, *tiny.kv);
  const auto same = [](const at::Tensor& moved, const at::Tensor& fresh) {
    return (moved - fresh).abs().max().item<double>() < 1e-5;
  };
  EXPECT_TRUE(same(tiny.kv->Keys(0, 0).narrow(1, 0, 25), tiny.kv->Keys(1, 0).narrow(1, 0, 25)));
  EXPECT_TRUE(same(tiny.kv->Values(0, 0).narrow(1, 0, 25), tiny.kv->Values(1, 0).narrow(1, 0, 25)));
}

}  // namespace
}  // namespace mayfly
