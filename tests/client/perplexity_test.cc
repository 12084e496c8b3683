#include "client/perplexity.h"

#include <cmath>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mayfly::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

TEST(PerplexityTest, IsTheExponentialOfTheMean) {
  const std::vector<float> logprobs = {-1, -3};
  EXPECT_DOUBLE_EQ(SumNll(logprobs).Mean(), 2.0);
  EXPECT_DOUBLE_EQ(SumNll(logprobs).Perplexity(), std::exp(2.0));
}

TEST(PerplexityTest, UnscoredTokensCountNowhere) {
  const std::vector<float> logprobs = {kNaN, -1, -3};
  EXPECT_EQ(SumNll(logprobs).tokens, 2);
  EXPECT_DOUBLE_EQ(SumNll(logprobs).Mean(), 2.0);
  EXPECT_DOUBLE_EQ(ChunkMeanPerplexity(logprobs, 3), std::exp(2.0));
}

TEST(PerplexityTest, OfNothingIsNotANumber) {
  EXPECT_TRUE(std::isnan(SumNll({}).Perplexity()));
  EXPECT_TRUE(std::isnan(ChunkMeanPerplexity({}, 4)));
  const std::vector<float> unscored = {kNaN};
  EXPECT_TRUE(std::isnan(ChunkMeanPerplexity(unscored, 4)));
}

TEST(PerplexityTest, ChunkMeanWeighsChunksByTheirTokens) {
  const std::vector<float> logprobs = {-1, -1, -2};
  EXPECT_NEAR(ChunkMeanPerplexity(logprobs, 2), (2 * std::exp(1.0) + std::exp(2.0)) / 3, 1e-12);
}

TEST(PerplexityTest, ChunkMeanIsNeverSmaller) {
  const std::vector<float> logprobs = {-0.5f, -4, -1, -2, -7, -0.1f, -3};
  EXPECT_GT(ChunkMeanPerplexity(logprobs, 2), SumNll(logprobs).Perplexity());
  EXPECT_DOUBLE_EQ(ChunkMeanPerplexity(logprobs, 7), SumNll(logprobs).Perplexity());
}

TEST(PerplexityTest, ChunksAndPartsCoverAllTokensOnce) {
  const std::vector<float> logprobs = {1, 2, 3, 4, 5, 6};
  EXPECT_THAT(Chunks(logprobs, 4), ElementsAre(ElementsAre(1, 2, 3, 4), ElementsAre(5, 6)));
  EXPECT_THAT(Parts(logprobs, 4),
              ElementsAre(ElementsAre(1), ElementsAre(2, 3), ElementsAre(4), ElementsAre(5, 6)));
  EXPECT_THAT(Chunks({}, 4), IsEmpty());
}

TEST(PerplexityTest, ChangeIsRelativeToTheBase) {
  EXPECT_NEAR(RelativeChange(24.68, 27.60), -0.1058, 1e-4);
  EXPECT_DOUBLE_EQ(RelativeChange(3, 3), 0);
}

}  // namespace
}  // namespace mayfly::cli
