// What only a real device can show of graphs.

#include <stdexcept>

#include "engine/device/graph_cache.h"
#include "engine/device/stream.h"
#include "gtest/gtest.h"
#include "tests/support/test_device.h"

namespace mayfly {
namespace {

class DeviceGraphTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!MissingTestDevice().empty()) GTEST_SKIP() << MissingTestDevice();
    ASSERT_NE(TestDeviceOps(), nullptr) << "libmayfly_cuda.so was not loaded";
  }
  const c10::InferenceMode no_autograd_;
};

TEST_F(DeviceGraphTest, AReplayReadsWhatItsInputsHoldNow) {
  const at::TensorOptions options(TestDevice());
  at::Tensor x = at::ones({64, 64}, options), y = at::zeros({64, 64}, options);
  GraphCache cache(TestDeviceOps());
  for (int i = 1; i <= 4; ++i) {
    x.fill_(i);
    cache.Run(1, [&] { y.copy_(at::mm(x, x).add_(1)); });
    EXPECT_EQ(y.max().item<float>(), 64.0f * static_cast<float>(i * i) + 1);
  }
  EXPECT_EQ(cache.recorded(), 1) << cache.failure();
}

TEST_F(DeviceGraphTest, WorkThatCannotBeRecordedGoesOnBeingRun) {
  at::Tensor x = at::ones({4}, at::TensorOptions(TestDevice()));
  float seen = 0;
  GraphCache cache(TestDeviceOps());
  for (int i = 1; i <= 3; ++i) {
    x.fill_(i);
    cache.Run(1, [&] { seen = x.sum().item<float>(); });  // waits, which no graph can
    EXPECT_EQ(seen, 4.0f * static_cast<float>(i));
  }
  EXPECT_FALSE(cache.failure().ok());
  EXPECT_EQ(cache.recorded(), 0);
}

TEST_F(DeviceGraphTest, AnUpdateStreamWorksOnWhileAStepIsRecorded) {
  const at::TensorOptions options(TestDevice());
  const StreamScope decode(TestDevice(), StreamPriority::kDecode);
  Stream update(TestDevice(), {});
  at::Tensor sum = at::zeros({1}, options), y = at::zeros({256, 256}, options);
  for (int i = 0; i < 200; ++i) {
    update.Run([&] {
      const c10::InferenceMode no_autograd;
      sum.add_(at::ones({1 << 16}, options).mean());
    });
  }
  GraphCache cache(TestDeviceOps());
  for (const int64_t bucket : GraphCache::kBuckets) {
    cache.Run(bucket, [&] { y.add_(at::ones({256, 256}, options)); });
    cache.Run(bucket, [] {});
  }
  update.Record().Wait();
  EXPECT_EQ(sum.item<float>(), 200);
  EXPECT_EQ(y.max().item<float>(), 2 * static_cast<float>(GraphCache::kBuckets.size()));
  EXPECT_EQ(cache.recorded(), static_cast<int64_t>(GraphCache::kBuckets.size())) << cache.failure();
}

}  // namespace
}  // namespace mayfly
