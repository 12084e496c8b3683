#include "engine/pool/kv_pool.h"

#include "gtest/gtest.h"

namespace mayfly {
namespace {

constexpr int32_t kRows = 3;
constexpr int32_t kWindow = 10;

class KvPoolTest : public testing::TestWithParam<DType> {
 protected:
  KvPoolTest() : pool_(Config(), NumericsFor(at::kCPU, GetParam()), kRows, kWindow) {}

  static ModelConfig Config() {
    ModelConfig config;
    config.layers = 2;
    config.kv_heads = 2;
    config.head_dim = 4;
    return config;
  }
  void Fill(int64_t row, int64_t tokens) {
    for (int64_t layer = 0; layer < 2; ++layer) {
      pool_.Keys(row, layer).narrow(1, 0, tokens).fill_(1);
      pool_.Values(row, layer).narrow(1, 0, tokens).fill_(2);
    }
  }

  const c10::InferenceMode no_autograd_;
  KvPool pool_;
};

TEST_P(KvPoolTest, StartsZeroWithOneRowMoreForTheBase) {
  EXPECT_EQ(pool_.base_row(), kRows);
  EXPECT_EQ(pool_.window_tokens(), kWindow);
  for (int64_t row = 0; row <= kRows; ++row) EXPECT_TRUE(pool_.IsZero(row));
}

TEST_P(KvPoolTest, ALayerOfARowIsHeadsByPositions) {
  EXPECT_EQ(pool_.Keys(0, 1).sizes(), (std::vector<int64_t>{2, kWindow, 4}));
  EXPECT_EQ(pool_.Values(0, 1).sizes(), (std::vector<int64_t>{2, kWindow, 4}));
}

TEST_P(KvPoolTest, ZeroingARowLeavesItsNeighboursAlone) {
  for (int64_t row = 0; row <= kRows; ++row) Fill(row, kWindow);
  pool_.Zero(1, kWindow);
  EXPECT_TRUE(pool_.IsZero(1));
  for (const int64_t row : {0, 2, 3}) {
    for (int64_t layer = 0; layer < 2; ++layer) {
      EXPECT_TRUE(pool_.Keys(row, layer).eq(1).all().item<bool>());
      EXPECT_TRUE(pool_.Values(row, layer).eq(2).all().item<bool>());
    }
  }
}

TEST_P(KvPoolTest, ZeroingWhatWasWrittenZeroesTheRow) {
  Fill(0, 6);
  pool_.Zero(0, 5);
  EXPECT_FALSE(pool_.IsZero(0));
  pool_.Zero(0, 6);
  EXPECT_TRUE(pool_.IsZero(0));
  pool_.Zero(0, 0);
  EXPECT_TRUE(pool_.IsZero(0));
}

TEST_P(KvPoolTest, OneElementInTheLastPlaceMakesARowNotZero) {
  pool_.Keys(1, 1)[-1][-1][-1] = 1e-30;
  EXPECT_FALSE(pool_.IsZero(1));
  pool_.Zero(1, kWindow);
  pool_.Values(1, 1)[-1][-1][-1] = 1e-30;
  EXPECT_FALSE(pool_.IsZero(1));
  EXPECT_TRUE(pool_.IsZero(0) && pool_.IsZero(2));
}

INSTANTIATE_TEST_SUITE_P(Types, KvPoolTest, testing::Values(DType::kFloat32, DType::kBFloat16));

}  // namespace
}  // namespace mayfly
