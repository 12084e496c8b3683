#include "engine/base/metric.h"

#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mayfly {
namespace {

std::vector<uint64_t> Buckets(const Histogram& histogram) {
  std::vector<uint64_t> counts;
  for (size_t i = 0; i <= histogram.bounds().size(); ++i) counts.push_back(histogram.bucket(i));
  return counts;
}

TEST(HistogramTest, AnUpperBoundBelongsToItsBucketAndTheLastBucketTakesTheRest) {
  Histogram histogram({1, 10});
  for (const double value : {-5.0, 1.0, 1.5, 10.0, 10.5, 1e9}) histogram.Observe(value);
  EXPECT_THAT(Buckets(histogram), testing::ElementsAre(2, 2, 2));
  EXPECT_DOUBLE_EQ(histogram.sum(), -5 + 1 + 1.5 + 10 + 10.5 + 1e9);
}

TEST(MetricTest, NothingIsLostBetweenThreads) {
  Counter counter;
  Gauge gauge;
  Histogram histogram({0.5});
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int j = 0; j < 1000; ++j) {
        counter.Increment(2);
        gauge.Add(0.5);
        histogram.Observe(1);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counter.value(), 8000u);
  EXPECT_DOUBLE_EQ(gauge.value(), 2000);
  EXPECT_THAT(Buckets(histogram), testing::ElementsAre(0, 4000));
}

TEST(GaugeTest, IsWhatItWasSetToLast) {
  Gauge gauge;
  gauge.Set(3);
  gauge.Add(-1);
  EXPECT_DOUBLE_EQ(gauge.value(), 2);
  gauge.Set(7);
  EXPECT_DOUBLE_EQ(gauge.value(), 7);
}

}  // namespace
}  // namespace mayfly
