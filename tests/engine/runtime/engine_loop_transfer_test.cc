// A row that leaves with its session and goes on in another engine: to the last bit as if it had
// stayed.

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/match.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/tiny_engine.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

using ::testing::HasSubstr;

using Case = std::tuple<std::string, DType, bool>;

AdapterSpec UpperLayer() {
  AdapterSpec spec = Spec(4, 3);
  spec.first_layer = 1;
  return spec;
}

class TransferTest : public testing::TestWithParam<Case> {
 protected:
  static TinyEngineOptions Options() {
    TinyEngineOptions options;
    std::tie(options.model, options.dtype, options.keep_lower_layers) = GetParam();
    options.deterministic = true;
    return options;
  }

  // Reads, learns and writes; where keys and values are kept, they are of several versions.
  static void Begin(TestRow& row) {
    row.Prefill(RandomTokens(24, 5));
    EXPECT_EQ(row.Update(row.Lesson(16, 8)).outcome, UpdateOutcome::kApplied);
    row.Refresh(20);
    row.Generate(Sampled(7, 9));
    EXPECT_EQ(row.Update(row.Lesson(12, 4)).outcome, UpdateOutcome::kApplied);
    row.Change(CheckpointWork{});
    row.Prefill(RandomTokens(5, 6));
  }

  // What follows, with an update that starts from the moments and a return to the checkpoint.
  static Transcript GoOn(TestRow& row) {
    Transcript seen;
    seen.Add(row.Generate(Sampled(6, 11)));
    seen.Add(row.Prefill(RandomTokens(4, 7)));
    EXPECT_EQ(row.Update(row.Lesson(16, 8)).outcome, UpdateOutcome::kApplied);
    seen.Add(row.Prefill(RandomTokens(3, 8), true, /*score_base=*/true));
    row.Change(RollBackWork{});
    row.Refresh(16);
    seen.Add(row.Generate(Sampled(5, 13)));
    return seen;
  }

  static at::Tensor Adapter(const TinyEngine& engine, const TestRow& row) {
    const AdapterState state = engine.adapters().State(row.handle().row);
    return at::cat({state.serving.to(at::kFloat), state.master, state.moment1, state.moment2,
                    state.checkpoint});
  }

  TinyEngine here_{Options()};
  TinyEngine there_{Options()};
};

TEST_P(TransferTest, ARowGoesOnElsewhereToTheSameBits) {
  const AdapterSpec spec = UpperLayer();
  TestRow stays(&here_, spec);
  Begin(stays);
  TestRow leaves(&there_, stays, spec);
  EXPECT_TRUE(at::equal(Adapter(there_, leaves), Adapter(here_, stays)));

  const Transcript uninterrupted = GoOn(stays);
  ExpectSame(GoOn(leaves), uninterrupted);
  EXPECT_TRUE(at::equal(Adapter(there_, leaves), Adapter(here_, stays)));

  // And what it had learned shows: a fresh row on the same text says something else.
  TestRow cold(&here_, spec);
  cold.Prefill(RandomTokens(24, 5));
  cold.Prefill(RandomTokens(12, 6));
  EXPECT_FALSE(SameBits(GoOn(cold).scores, uninterrupted.scores));
}

TEST_P(TransferTest, ARowThatCameFromElsewhereLeavesNothingBehind) {
  {
    TestRow stays(&here_, UpperLayer());
    Begin(stays);
    TestRow leaves(&there_, stays, UpperLayer());
    leaves.Close();
  }
  EXPECT_TRUE(there_.IsZero());
}

INSTANTIATE_TEST_SUITE_P(Models, TransferTest,
                         testing::Combine(testing::Values("llama_tied", "qwen3"),
                                          testing::Values(DType::kFloat32, DType::kBFloat16),
                                          testing::Bool()));

TEST(RowTransferTest, AGenerationThatWasCutOffCountsWhatItHadSaid) {
  TinyEngine engine;
  const auto penalized = [](int32_t tokens) {
    GenerateWork work = Greedy(tokens);
    work.sampling.frequency_penalty = 0.5;
    work.sampling.presence_penalty = 0.5;
    return work;
  };
  TestRow whole(&engine), cut(&engine);
  whole.Prefill(RandomTokens(9, 1));
  cut.Prefill(RandomTokens(9, 1));
  const std::vector<TokenId> ids = whole.Generate(penalized(20)).ids;
  const std::vector<TokenId> first = cut.Generate(penalized(12)).ids;
  GenerateWork rest = penalized(8);
  rest.continued_tokens = 12;
  std::vector<TokenId> joined = first;
  for (const TokenId id : cut.Generate(rest).ids) joined.push_back(id);
  EXPECT_EQ(joined, ids);
}

TEST(RowTransferTest, TheAdapterAloneIsNamedAndShapedAsPeftDoes) {
  TinyEngine engine;
  AdapterSpec spec = Spec(4);
  spec.target_modules = TargetModules::kAttention;
  spec.first_layer = 1;
  TestRow row(&engine, spec);
  row.Prefill(RandomTokens(16, 2));
  ASSERT_EQ(row.Update(row.Lesson(12, 4)).outcome, UpdateOutcome::kApplied);
  const auto state = row.Export(/*adapter_alone=*/true);
  std::set<std::string> names;
  for (const TensorBytes& tensor : state->tensors) {
    names.insert(tensor.name);
    ASSERT_EQ(tensor.shape.size(), 2u);
    const bool is_a = absl::StrContains(tensor.name, "lora_A");
    EXPECT_EQ(tensor.shape[is_a ? 0 : 1], 4) << tensor.name;
    EXPECT_EQ(tensor.type, DType::kFloat32);
    EXPECT_EQ(tensor.bytes.size(),
              static_cast<size_t>(tensor.shape[0] * tensor.shape[1]) * sizeof(float));
  }
  const int32_t layers = engine.loop().info().model.layers;
  EXPECT_EQ(names.size(), static_cast<size_t>(2 * 4 * (layers - 1)));
  EXPECT_TRUE(names.contains("base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"));
  EXPECT_EQ(state->adapter_version, 1u);

  TestRow off(&engine, Spec(0));
  off.Prefill(RandomTokens(4, 2));
  const WorkId id = off.Submit(ExportWork{true});
  EXPECT_THAT(off.sink().Wait<WorkFailed>(id).status,
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no adapter")));
}

TEST(RowTransferTest, WhatIsNotTheStateOfSuchARowIsRefusedAndLeavesTheRowFreeAndZero) {
  TinyEngine engine;
  std::shared_ptr<const RowState> good;
  {
    TestRow row(&engine);
    row.Prefill(RandomTokens(16, 2));
    good = row.Export();
    row.Close();
  }
  const std::vector<std::function<void(RowState&)>> harms = {
      [](RowState& state) { state.tensors.pop_back(); },
      [](RowState& state) { state.tensors[0].bytes.pop_back(); },
      [](RowState& state) { state.tensors[0].shape[2] -= 1; },
      [](RowState& state) { state.tensors[1].type = DType::kBFloat16; },
      [](RowState& state) { std::swap(state.tensors[2], state.tensors[3]); },
      [](RowState& state) { state.kv_length = 16; },
      [](RowState& state) { state.kv_length = -1; },
      [](RowState& state) { state.lower_length = 3; },
      [](RowState& state) { state.optimizer_steps = -1; },
      [](RowState& state) { state.tokens.resize(65); },
  };
  for (size_t i = 0; i < harms.size(); ++i) {
    SCOPED_TRACE(i);
    auto state = std::make_shared<RowState>(*good);
    harms[i](*state);
    const auto sink = std::make_shared<RecordingSink>();
    ASSERT_TRUE(
        engine.loop().Open({.adapter = Spec(), .window_tokens = 64, .restore = state}, sink).ok());
    EXPECT_THAT(sink->Wait<RowRefused>().status,
                StatusIs(absl::StatusCode::kInvalidArgument, testing::_));
  }
  EXPECT_EQ(engine.loop().free_rows(), 2);
  EXPECT_TRUE(engine.IsZero());
}

}  // namespace
}  // namespace mayfly
