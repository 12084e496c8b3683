#include "engine/runtime/sampler.h"

#include <cmath>
#include <map>
#include <set>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mayfly {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

// Logits whose softmax is `probabilities`.
std::vector<float> LogitsOf(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

TokenId Sample(const SamplingOptions& options, std::vector<float> logits, uint64_t position = 0,
               const TokenCounts* window = nullptr, const TokenCounts* generated = nullptr) {
  return SampleToken(options, {logits, window, generated, position});
}

constexpr int kDraws = 20000;

std::vector<double> Frequencies(const SamplingOptions& options, const std::vector<float>& logits) {
  std::vector<double> frequencies(logits.size());
  for (uint64_t position = 0; position < kDraws; ++position) {
    frequencies[static_cast<size_t>(Sample(options, logits, position))] += 1.0 / kDraws;
  }
  return frequencies;
}

// Pearson's test against a bound that a right sampler passes for all but one seed in ten thousand
// (chi-squared with up to four degrees of freedom); what cannot be drawn must not be.
void ExpectDistribution(const SamplingOptions& options, const std::vector<float>& logits,
                        const std::vector<double>& expected) {
  const std::vector<double> frequencies = Frequencies(options, logits);
  double chi_squared = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] == 0) {
      EXPECT_EQ(frequencies[i], 0) << "token " << i;
      continue;
    }
    const double difference = frequencies[i] - expected[i];
    chi_squared += kDraws * difference * difference / expected[i];
  }
  EXPECT_LT(chi_squared, 23.5);
}

const std::vector<double> kProbabilities = {0.05, 0.4, 0.1, 0.15, 0.3};

TEST(SamplerTest, WithoutOptionsTokensComeAsOftenAsTheModelSays) {
  ExpectDistribution({}, LogitsOf(kProbabilities), kProbabilities);
}

TEST(SamplerTest, TemperatureZeroTakesTheMostProbableAndTheLowestIdOfEquals) {
  SamplingOptions options;
  options.temperature = 0;
  EXPECT_EQ(Sample(options, LogitsOf(kProbabilities)), 1);
  EXPECT_EQ(Sample(options, {1, 3, 3, 2}), 1);
}

TEST(SamplerTest, TemperatureDividesTheLogits) {
  SamplingOptions options;
  options.temperature = 0.5;
  std::vector<double> squared;
  double total = 0;
  for (const double p : kProbabilities) total += p * p;
  for (const double p : kProbabilities) squared.push_back(p * p / total);
  ExpectDistribution(options, LogitsOf(kProbabilities), squared);
}

TEST(SamplerTest, ATinyTemperatureIsGreedyAndAHugeOneUniform) {
  SamplingOptions options;
  options.temperature = 1e-6;
  ExpectDistribution(options, LogitsOf(kProbabilities), {0, 1, 0, 0, 0});
  options.temperature = 1e6;
  ExpectDistribution(options, LogitsOf(kProbabilities), {0.2, 0.2, 0.2, 0.2, 0.2});
}

TEST(SamplerTest, TopKKeepsTheBestTokens) {
  SamplingOptions options;
  options.top_k = 2;
  ExpectDistribution(options, LogitsOf(kProbabilities), {0, 0.4 / 0.7, 0, 0, 0.3 / 0.7});
  options.top_k = 1;
  ExpectDistribution(options, LogitsOf(kProbabilities), {0, 1, 0, 0, 0});
  options.top_k = 99;
  ExpectDistribution(options, LogitsOf(kProbabilities), kProbabilities);
}

TEST(SamplerTest, OfEqualTokensTopKKeepsTheLowerIds) {
  SamplingOptions options;
  options.top_k = 2;
  ExpectDistribution(options, {0, 0, 0, 0}, {0.5, 0.5, 0, 0});
}

TEST(SamplerTest, TopPKeepsTheSmallestSetThatReachesIt) {
  SamplingOptions options;
  options.top_p = 0.65;
  ExpectDistribution(options, LogitsOf(kProbabilities), {0, 0.4 / 0.7, 0, 0, 0.3 / 0.7});
  options.top_p = 0.75;
  ExpectDistribution(options, LogitsOf(kProbabilities),
                     {0, 0.4 / 0.85, 0, 0.15 / 0.85, 0.3 / 0.85});
}

TEST(SamplerTest, TopPAlwaysKeepsTheBestToken) {
  SamplingOptions options;
  options.top_p = 0;
  ExpectDistribution(options, LogitsOf(kProbabilities), {0, 1, 0, 0, 0});
}

TEST(SamplerTest, MinPIsAShareOfTheBestProbability) {
  SamplingOptions options;
  options.min_p = 0.3;  // of 0.4: from 0.12 on
  ExpectDistribution(options, LogitsOf(kProbabilities),
                     {0, 0.4 / 0.85, 0, 0.15 / 0.85, 0.3 / 0.85});
  options.min_p = 1;
  ExpectDistribution(options, LogitsOf(kProbabilities), {0, 1, 0, 0, 0});
}

TEST(SamplerTest, MinPMeasuresAfterTheTemperature) {
  SamplingOptions options;
  options.temperature = 0.5;
  options.min_p = 0.3;  // squared, 0.3 / 0.4 is 0.56 and 0.15 / 0.4 is 0.14
  ExpectDistribution(options, LogitsOf(kProbabilities), {0, 0.16 / 0.25, 0, 0, 0.09 / 0.25});
}

TEST(SamplerTest, TopPMeasuresWhatTopKLeft) {
  SamplingOptions options;
  options.top_k = 2;
  options.top_p = 0.5;  // the best token has 0.57 of what is left
  ExpectDistribution(options, LogitsOf(kProbabilities), {0, 1, 0, 0, 0});
}

TEST(SamplerTest, MinPComesAfterTopP) {
  SamplingOptions options;
  options.top_p = 0.5;  // 0.4 and 0.3 of all tokens; were min_p first, 0.4 alone would reach it
  options.min_p = 0.7;
  ExpectDistribution(options, LogitsOf(kProbabilities), {0, 0.4 / 0.7, 0, 0, 0.3 / 0.7});
}

TEST(SamplerTest, RepetitionDividesPositiveLogitsAndMultipliesNegativeOnes) {
  SamplingOptions options;
  options.temperature = 0;
  options.repetition_penalty = 2;
  const TokenCounts window = {{0, 5}};
  EXPECT_EQ(Sample(options, {3.0f, 1.6f}, 0, &window), 1);  // 3 becomes 1.5, however often seen
  EXPECT_EQ(Sample(options, {3.0f, 1.4f}, 0, &window), 0);
  EXPECT_EQ(Sample(options, {-1.0f, -1.9f}, 0, &window), 1);  // -1 becomes -2
  EXPECT_EQ(Sample(options, {-1.0f, -2.1f}, 0, &window), 0);
}

TEST(SamplerTest, FrequencyCountsOccurrencesAndPresenceOnlyOnce) {
  const TokenCounts generated = {{0, 3}};
  SamplingOptions frequency;
  frequency.temperature = 0;
  frequency.frequency_penalty = 0.5;  // 1.5 in all
  EXPECT_EQ(Sample(frequency, {2.0f, 0.6f}, 0, nullptr, &generated), 1);
  EXPECT_EQ(Sample(frequency, {2.0f, 0.4f}, 0, nullptr, &generated), 0);
  SamplingOptions presence;
  presence.temperature = 0;
  presence.presence_penalty = 0.5;
  EXPECT_EQ(Sample(presence, {2.0f, 1.6f}, 0, nullptr, &generated), 1);
  EXPECT_EQ(Sample(presence, {2.0f, 1.4f}, 0, nullptr, &generated), 0);
}

TEST(SamplerTest, NegativePenaltiesInvite) {
  SamplingOptions options;
  options.temperature = 0;
  options.presence_penalty = -1;
  const TokenCounts generated = {{1, 1}};
  EXPECT_EQ(Sample(options, {1.0f, 0.5f}, 0, nullptr, &generated), 1);
}

TEST(SamplerTest, PenaltiesComeBeforeTopK) {
  SamplingOptions options;
  options.top_k = 1;
  options.frequency_penalty = 10;
  const TokenCounts generated = {{1, 1}};
  EXPECT_EQ(Sample(options, LogitsOf(kProbabilities), 0, nullptr, &generated), 4);
}

TEST(SamplerTest, TheSameSeedAndPositionDrawTheSameToken) {
  const std::vector<float> logits(1000, 0.0f);
  SamplingOptions first, second;
  first.seed = 1;
  second.seed = 2;
  int differing_seeds = 0, differing_positions = 0;
  for (uint64_t position = 0; position < 100; ++position) {
    const TokenId token = Sample(first, logits, position);
    EXPECT_EQ(Sample(first, logits, position), token);
    differing_seeds += Sample(second, logits, position) != token;
    differing_positions += Sample(first, logits, position + 1) != token;
  }
  // A thousand tokens agree by chance once in a thousand draws.
  EXPECT_GE(differing_seeds, 95);
  EXPECT_GE(differing_positions, 95);
}

TEST(UniformAtTest, LiesInTheUnitIntervalAndIsUniform) {
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}}) {
    std::vector<int> buckets(10);
    for (uint64_t position = 0; position < 10000; ++position) {
      const double u = UniformAt(seed, position);
      ASSERT_GE(u, 0);
      ASSERT_LT(u, 1);
      ++buckets[static_cast<size_t>(u * 10)];
    }
    // Binomial with p = 0.1: a standard deviation of 30.
    for (const int count : buckets) EXPECT_NEAR(count, 1000, 150);
  }
}

TEST(UniformAtTest, NeighbouringSeedsAndPositionsShareNoNumbers) {
  std::set<double> seen;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    for (uint64_t position = 0; position < 50; ++position) seen.insert(UniformAt(seed, position));
  }
  EXPECT_EQ(seen.size(), 2500u);
}

TEST(TopTokensTest, TheBestComeFirstAndTiesGoToTheLowerId) {
  const std::vector<float> logits = {1, 5, 3, 5, 2};
  EXPECT_THAT(TopTokens(logits, 3), ElementsAre(1, 3, 2));
  EXPECT_THAT(TopTokens(logits, 0), IsEmpty());
  EXPECT_THAT(TopTokens(logits, 99), ElementsAre(1, 3, 2, 4, 0));
}

}  // namespace
}  // namespace mayfly
