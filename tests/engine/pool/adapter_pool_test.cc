#include "engine/pool/adapter_pool.h"

#include <cmath>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/parity/tiny_model.h"

namespace mayfly {
namespace {

constexpr int32_t kMaxRank = 4;
constexpr int32_t kRows = 3;

AdapterSpec MakeSpec(int32_t rank, uint64_t seed = 1) {
  AdapterSpec spec;
  spec.rank = rank;
  spec.seed = seed;
  return spec;
}

std::vector<at::Tensor> Parts(const AdapterState& state) {
  return {state.serving, state.master, state.moment1, state.moment2, state.checkpoint};
}

std::vector<at::Tensor> Copies(const AdapterState& state) {
  std::vector<at::Tensor> copies;
  for (const at::Tensor& part : Parts(state)) copies.push_back(part.clone());
  return copies;
}

void ExpectSame(const AdapterState& state, const std::vector<at::Tensor>& expected) {
  const std::vector<at::Tensor> parts = Parts(state);
  for (size_t i = 0; i < parts.size(); ++i) EXPECT_TRUE(at::equal(parts[i], expected[i])) << i;
}

class AdapterPoolTest : public testing::TestWithParam<DType> {
 protected:
  AdapterPoolTest()
      : tiny_(LoadTinyModel(kParityData + std::string("qwen3"), GetParam(), 8, kMaxRank, kRows)),
        pool_(*tiny_.adapters) {}

  // Something in every part of the row that `spec` uses, as after updates.
  void Scribble(int64_t row, const AdapterSpec& spec) {
    for (const at::Tensor& part : Parts(pool_.State(row))) {
      for (const Span& span : tiny_.layout->ActiveSpans(spec)) {
        part.narrow(0, span.offset, span.count).uniform_(0.5, 1);
      }
    }
  }

  const c10::InferenceMode no_autograd_;
  const TinyModel tiny_;
  AdapterPool& pool_;
};

TEST_P(AdapterPoolTest, AFreshAdapterIsKaimingUniformInAAndZeroInB) {
  const AdapterSpec spec = MakeSpec(kMaxRank);
  pool_.Initialize(0, spec);
  const AdapterState state = pool_.State(0);
  const AdapterView master{tiny_.layout.get(), spec, state.master};
  for (int32_t layer = 0; layer < tiny_.layout->layers(); ++layer) {
    for (const Module module : kAllModules) {
      const double bound = 1 / std::sqrt(tiny_.layout->shape(module).in);
      const at::Tensor a = master.A(layer, module);
      EXPECT_LE(a.abs().max().item<double>(), bound);
      // A uniform variable's deviation is its half width over sqrt(3).
      EXPECT_NEAR(a.std().item<double>(), bound / std::sqrt(3), 0.2 * bound);
      EXPECT_FALSE(master.B(layer, module).any().item<bool>());
    }
  }
  EXPECT_FALSE(state.moment1.any().item<bool>() || state.moment2.any().item<bool>());
  EXPECT_TRUE(at::equal(state.checkpoint, state.master));
  EXPECT_TRUE(at::equal(state.serving, state.master.to(state.serving.scalar_type())));
}

TEST_P(AdapterPoolTest, ActiveCopiesAreRowsOfOneTensorWhicheverTheyAre) {
  const AdapterSpec spec = MakeSpec(2);
  const AdapterState before = pool_.State(0);
  pool_.Flip(0);
  const at::Tensor flipped = pool_.Serving(0, spec).elements;
  const at::Tensor other = pool_.Serving(1, spec).elements;
  EXPECT_EQ(flipped.data_ptr(), before.shadow.data_ptr());
  EXPECT_TRUE(flipped.is_alias_of(other) && flipped.is_alias_of(before.serving));
}

TEST_P(AdapterPoolTest, TheSeedDecidesTheAdapterAndTheRowDoesNot) {
  pool_.Initialize(0, MakeSpec(2, 7));
  pool_.Initialize(1, MakeSpec(2, 7));
  pool_.Initialize(2, MakeSpec(2, 8));
  EXPECT_TRUE(at::equal(pool_.State(0).master, pool_.State(1).master));
  EXPECT_FALSE(at::equal(pool_.State(0).master, pool_.State(2).master));
}

TEST_P(AdapterPoolTest, OnlyTheUsedRanksModulesAndLayersAreTouched) {
  AdapterSpec spec = MakeSpec(2);
  spec.target_modules = TargetModules::kAttention;
  spec.first_layer = 1;
  pool_.Initialize(0, spec);
  Scribble(0, spec);
  pool_.Publish(0, spec);
  pool_.SaveCheckpoint(0, spec);
  int64_t used = 0;
  for (const at::Tensor& part : Parts(pool_.State(0))) used += part.count_nonzero().item<int64_t>();
  EXPECT_EQ(used, 5 * tiny_.layout->ActiveElements(spec));
}

TEST_P(AdapterPoolTest, PublishingRoundsTheMastersIntoServiceAndChangesNothingElse) {
  const AdapterSpec spec = MakeSpec(2);
  Scribble(0, spec);
  std::vector<at::Tensor> expected = Copies(pool_.State(0));
  expected[0].copy_(expected[1]);
  pool_.Publish(0, spec);
  ExpectSame(pool_.State(0), expected);
}

TEST_P(AdapterPoolTest, RollingBackTakesTheCheckpointServesItAndForgetsTheMoments) {
  const AdapterSpec spec = MakeSpec(3);
  Scribble(0, spec);
  pool_.SaveCheckpoint(0, spec);
  const at::Tensor saved = pool_.State(0).master.clone();
  pool_.State(0).master.mul_(3);
  pool_.RestoreCheckpoint(0, spec);
  const AdapterState state = pool_.State(0);
  EXPECT_TRUE(at::equal(state.master, saved));
  EXPECT_TRUE(at::equal(state.serving, saved.to(state.serving.scalar_type())));
  EXPECT_FALSE(state.moment1.any().item<bool>() || state.moment2.any().item<bool>());
}

TEST_P(AdapterPoolTest, WithoutASavedCheckpointRollingBackGivesTheFreshAdapter) {
  const AdapterSpec spec = MakeSpec(2);
  pool_.Initialize(0, spec);
  const std::vector<at::Tensor> fresh = Copies(pool_.State(0));
  pool_.State(0).master.add_(1);
  pool_.State(0).moment1.add_(1);
  pool_.State(0).moment1.mul_(0);
  pool_.State(0).master.sub_(1);
  pool_.RestoreCheckpoint(0, spec);
  ExpectSame(pool_.State(0), fresh);
}

TEST_P(AdapterPoolTest, InitializingAUsedRowAgainGivesTheSameFreshAdapter) {
  const AdapterSpec spec = MakeSpec(2);
  pool_.Initialize(0, spec);
  const std::vector<at::Tensor> fresh = Copies(pool_.State(0));
  Scribble(0, spec);
  pool_.Initialize(0, spec);
  ExpectSame(pool_.State(0), fresh);
}

TEST_P(AdapterPoolTest, ZeroingARowLeavesItsNeighboursAlone) {
  for (int64_t row = 0; row < kRows; ++row) Scribble(row, MakeSpec(kMaxRank));
  const std::vector<at::Tensor> below = Copies(pool_.State(0));
  const std::vector<at::Tensor> above = Copies(pool_.State(2));
  pool_.Zero(1, MakeSpec(kMaxRank));
  EXPECT_TRUE(pool_.IsZero(1));
  ExpectSame(pool_.State(0), below);
  ExpectSame(pool_.State(2), above);
}

TEST_P(AdapterPoolTest, ZeroingNeedsNoMoreThanTheAdaptersOwnSpec) {
  AdapterSpec spec = MakeSpec(3);
  spec.target_modules = TargetModules::kMlp;
  spec.first_layer = 1;
  pool_.Initialize(1, spec);
  Scribble(1, spec);
  pool_.Zero(1, spec);
  EXPECT_TRUE(pool_.IsZero(1));
}

TEST_P(AdapterPoolTest, OneElementInAnyPartMakesARowNotZero) {
  for (const at::Tensor& part : Parts(pool_.State(1))) {
    EXPECT_TRUE(pool_.IsZero(1));
    part[-1] = 1e-30;
    EXPECT_FALSE(pool_.IsZero(1));
    EXPECT_TRUE(pool_.IsZero(0) && pool_.IsZero(2));
    part.zero_();
  }
}

TEST_P(AdapterPoolTest, TheForwardPassReadsTheServingWeightsInPlace) {
  const AdapterSpec spec = MakeSpec(2);
  const AdapterView view = pool_.Serving(1, spec);
  Scribble(1, spec);
  EXPECT_TRUE(view.elements.is_alias_of(pool_.State(1).serving));
  EXPECT_TRUE(at::equal(view.elements, pool_.State(1).serving));
}

INSTANTIATE_TEST_SUITE_P(Types, AdapterPoolTest,
                         testing::Values(DType::kFloat32, DType::kBFloat16));

}  // namespace
}  // namespace mayfly
