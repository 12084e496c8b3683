#include "tests/load/histogram.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "tests/load/draw.h"

namespace mayfly::load {
namespace {

TEST(LatencyHistogramTest, AnEmptyOneHasNothingToSay) {
  const LatencyHistogram histogram;
  EXPECT_EQ(histogram.count(), 0u);
  EXPECT_EQ(histogram.Percentile(0.99), 0);
  EXPECT_EQ(histogram.mean(), 0);
  EXPECT_TRUE(histogram.Buckets().empty());
}

TEST(LatencyHistogramTest, SmallValuesAreExact) {
  LatencyHistogram histogram;
  for (int micros = 1; micros <= 100; ++micros) histogram.Record(micros * 1e-6);
  EXPECT_DOUBLE_EQ(histogram.Percentile(0.5), 50e-6);
  EXPECT_DOUBLE_EQ(histogram.Percentile(0.99), 99e-6);
  EXPECT_DOUBLE_EQ(histogram.Percentile(1), 100e-6);
  EXPECT_DOUBLE_EQ(histogram.Percentile(0), 1e-6);
  EXPECT_DOUBLE_EQ(histogram.mean(), 50.5e-6);
}

TEST(LatencyHistogramTest, EveryPercentileIsWithinItsErrorOfTheSortedValues) {
  Draw draw(3, 0);
  LatencyHistogram histogram;
  std::vector<double> values;
  for (int i = 0; i < 20000; ++i) {
    // Ten microseconds to about an hour.
    values.push_back(1e-5 * std::exp(20 * draw.Uniform()));
    histogram.Record(values.back());
  }
  std::sort(values.begin(), values.end());
  for (const double share : {0.001, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0}) {
    const double exact = values[static_cast<size_t>(std::ceil(share * 20000)) - 1];
    // Half a microsecond is lost by rounding.
    EXPECT_NEAR(histogram.Percentile(share), exact, exact / 128 + 1e-6) << share;
  }
  EXPECT_DOUBLE_EQ(histogram.min(), values.front());
  EXPECT_DOUBLE_EQ(histogram.max(), values.back());
}

TEST(LatencyHistogramTest, BucketsAreAscendingAndHoldEverything) {
  LatencyHistogram histogram;
  for (int shift = 0; shift < 40; ++shift) {
    for (const int around : {-1, 0, 1}) {
      histogram.Record(static_cast<double>((int64_t{1} << shift) + around) * 1e-6);
    }
  }
  uint64_t count = 0;
  double before = -1;
  for (const LatencyHistogram::Bucket& bucket : histogram.Buckets()) {
    EXPECT_GT(bucket.seconds, before);
    before = bucket.seconds;
    count += bucket.count;
  }
  EXPECT_EQ(count, 120u);
}

TEST(LatencyHistogramTest, MergingEqualsRecordingTogether) {
  LatencyHistogram one, other, together;
  for (const double seconds : {0.001, 0.5, 20.0}) one.Record(seconds), together.Record(seconds);
  for (const double seconds : {0.0001, 300.0}) other.Record(seconds), together.Record(seconds);
  one.Merge(other);
  one.Merge(LatencyHistogram());
  EXPECT_EQ(one.count(), together.count());
  EXPECT_DOUBLE_EQ(one.mean(), together.mean());
  EXPECT_DOUBLE_EQ(one.min(), 0.0001);
  EXPECT_DOUBLE_EQ(one.max(), 300);
  for (const double share : {0.2, 0.4, 0.6, 0.8, 1.0}) {
    EXPECT_DOUBLE_EQ(one.Percentile(share), together.Percentile(share));
  }
}

TEST(LatencyHistogramTest, WhatCannotBeIsClamped) {
  LatencyHistogram histogram;
  histogram.Record(-1);
  EXPECT_EQ(histogram.max(), 0);
  histogram.Record(1e12);
  EXPECT_LT(histogram.max(), 1.2e6);
}

}  // namespace
}  // namespace mayfly::load
