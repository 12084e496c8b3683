#include "tests/load/scrape.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace mayfly::load {
namespace {

using ::testing::HasSubstr;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

TEST(ParseMetricsTest, ValuesHaveTheirLabelsAndBucketsAreLeftOut) {
  EXPECT_THAT(
      ParseMetrics("# HELP slots Rows.\n"
                   "# TYPE slots gauge\n"
                   "slots{state=\"free\"} 7\n"
                   "slots{state=\"a b\"} 1.5e3\n"
                   "seconds_bucket{le=\"+Inf\"} 4\n"
                   "seconds_sum 0.25\n"
                   "seconds_count 4\n"
                   "nonsense\n"),
      UnorderedElementsAre(Pair("slots{state=\"free\"}", 7), Pair("slots{state=\"a b\"}", 1500),
                           Pair("seconds_sum", 0.25), Pair("seconds_count", 4)));
}

TEST(SnapshotAtTest, IsTheNewestThatIsNotLater) {
  const auto at = [](int seconds) { return TimePoint(std::chrono::seconds(seconds)); };
  const std::vector<Snapshot> snapshots = {
      {at(10), {{"x", 1}}}, {at(11), {{"x", 2}}}, {at(12), {{"x", 3}}}};
  EXPECT_EQ(SnapshotAt(snapshots, at(9))["x"], 1);
  EXPECT_EQ(SnapshotAt(snapshots, at(11))["x"], 2);
  EXPECT_EQ(SnapshotAt(snapshots, at(99))["x"], 3);
  EXPECT_EQ(SnapshotAt(snapshots, at(99))["y"], 0);
}

TEST(FetchMetricsTest, WhoCannotBeReachedIsNamed) {
  EXPECT_THAT(FetchMetrics("nowhere"),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("http://nowhere/metrics")));
  EXPECT_THAT(FetchMetrics("127.0.0.1:1"), HasCode(absl::StatusCode::kUnavailable));
}

}  // namespace
}  // namespace mayfly::load
