#include "engine/device/graph_cache.h"

#include <stdexcept>

#include "gtest/gtest.h"

namespace mayfly {
namespace {

// Remembers the work that it was given and counts what happens to it.
struct Counts {
  int captures = 0;
  int replays = 0;
  bool fail = false;
};

class FakeGraph final : public DeviceGraph {
 public:
  explicit FakeGraph(Counts* counts) : counts_(counts) {}
  void Capture(const std::function<void()>&) override {
    if (counts_->fail) throw std::runtime_error("no memory for the graph");
    ++counts_->captures;
  }
  void Replay() override { ++counts_->replays; }

 private:
  Counts* const counts_;
};

class FakeOps final : public DeviceOps {
 public:
  explicit FakeOps(Counts* counts) : counts_(counts) {}
  void AddAdapterRows(const at::Tensor&, const AdapterRows&, const std::vector<AdapterPlace>&,
                      const at::Tensor&) const override {}
  std::unique_ptr<DeviceGraph> NewGraph() const override {
    return std::make_unique<FakeGraph>(counts_);
  }

 private:
  Counts* const counts_;
};

class GraphCacheTest : public testing::Test {
 protected:
  void Run(int64_t bucket) {
    cache_.Run(bucket, [this] { ++runs_; });
  }
  Counts counts_;
  const FakeOps ops_{&counts_};
  GraphCache cache_{&ops_};
  int runs_ = 0;
};

TEST_F(GraphCacheTest, ABatchTakesTheSmallestBucketThatHoldsIt) {
  EXPECT_EQ(GraphCache::BucketFor(0), std::nullopt);
  EXPECT_EQ(GraphCache::BucketFor(1), 1);
  EXPECT_EQ(GraphCache::BucketFor(2), 2);
  EXPECT_EQ(GraphCache::BucketFor(3), 4);
  EXPECT_EQ(GraphCache::BucketFor(33), 64);
  EXPECT_EQ(GraphCache::BucketFor(64), 64);
  EXPECT_EQ(GraphCache::BucketFor(65), std::nullopt);
}

TEST_F(GraphCacheTest, TheFirstStepOfABucketRunsAndTheOthersAreReplayed) {
  for (int i = 0; i < 3; ++i) Run(4);
  EXPECT_EQ(runs_, 1);
  EXPECT_EQ(counts_.captures, 1);
  EXPECT_EQ(counts_.replays, 2);
}

TEST_F(GraphCacheTest, EachBucketHasItsRecord) {
  Run(4);
  Run(8);
  Run(4);
  EXPECT_EQ(counts_.captures, 2);
  EXPECT_EQ(counts_.replays, 1);
  EXPECT_EQ(cache_.recorded(), 2);
}

TEST_F(GraphCacheTest, AfterAChangeOfPlacesStepsAreRecordedAgain) {
  Run(4);
  cache_.Invalidate();
  EXPECT_EQ(cache_.recorded(), 0);
  Run(4);
  EXPECT_EQ(runs_, 2);
  EXPECT_EQ(counts_.captures, 2);
}

TEST_F(GraphCacheTest, WhereRecordingFailsStepsAreRunAndItIsNotTriedAgain) {
  counts_.fail = true;
  Run(4);
  counts_.fail = false;
  Run(4);
  EXPECT_EQ(runs_, 2);
  EXPECT_EQ(counts_.captures, 0);
  EXPECT_EQ(cache_.recorded(), 0);
  EXPECT_EQ(cache_.failure(), absl::InternalError("recording a step: no memory for the graph"));
}

TEST_F(GraphCacheTest, AStepThatFailsIsNotRecorded) {
  EXPECT_THROW(cache_.Run(4, [] { throw std::runtime_error("no"); }), std::runtime_error);
  EXPECT_EQ(counts_.captures, 0);
}

TEST_F(GraphCacheTest, WithoutGraphsEveryStepRuns) {
  GraphCache plain(nullptr);
  for (int i = 0; i < 3; ++i) plain.Run(4, [this] { ++runs_; });
  EXPECT_EQ(runs_, 3);
  EXPECT_EQ(plain.recorded(), 0);
}

}  // namespace
}  // namespace mayfly
