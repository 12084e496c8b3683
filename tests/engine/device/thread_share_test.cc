// Who computes with how many threads, and who lets whom go first. The test's thread is the loop's;
// a thread of its own is the trainer's.

#include "engine/device/thread_share.h"

#include <atomic>
#include <functional>
#include <thread>
#include <tuple>
#include <utility>

#include <ATen/Parallel.h>

#include "gtest/gtest.h"
#include "tests/support/eventually.h"

namespace mayfly {
namespace {

constexpr int32_t kThreads = 3;
constexpr int32_t kUpdateThreads = 1;
constexpr int32_t kStepThreads = kThreads - kUpdateThreads;

// Does something on a thread of its own, which has ended when the scope ends.
class Trainer {
 public:
  explicit Trainer(std::function<void()> work) : thread_(std::move(work)) {}
  ~Trainer() { thread_.join(); }

 private:
  std::thread thread_;
};

class ThreadShareTest : public testing::Test {
 protected:
  // Threads that at::parallel_for has in a step, and in a layer.
  static int32_t OfStep(ThreadShare& share) {
    share.BeginStep();
    return at::get_num_threads();
  }
  static int32_t OfLayer(ThreadShare& share) {
    int32_t threads = 0;
    Trainer([&] {
      share.BeforeLayer();
      threads = at::get_num_threads();
    });
    return threads;
  }
  // Training that waits leaves all threads to steps, and a step may be begun again to see it.
  bool TrainingWaits() {
    return Eventually([&] { return OfStep(share_) == kThreads; });
  }

  ThreadShare share_{{.threads = kThreads, .update_threads = kUpdateThreads}};
};

TEST_F(ThreadShareTest, AStepAloneHasAllThreads) { EXPECT_EQ(OfStep(share_), kThreads); }

TEST_F(ThreadShareTest, ALayerAloneHasAllThreads) {
  share_.BeginTraining();
  EXPECT_EQ(OfLayer(share_), kThreads);
}

TEST_F(ThreadShareTest, SideBySideTrainingHasItsPartAndTheStepTheRest) {
  share_.BeginTraining();
  EXPECT_EQ(OfStep(share_), kStepThreads);
  EXPECT_EQ(OfLayer(share_), kUpdateThreads);
  share_.EndStep();  // the next one follows
  EXPECT_EQ(OfLayer(share_), kUpdateThreads);
}

TEST_F(ThreadShareTest, WhoIsLeftAloneHasAllThreadsAgain) {
  share_.BeginTraining();
  OfStep(share_);
  share_.EndStep();
  share_.Rest();
  EXPECT_EQ(OfLayer(share_), kThreads);
  share_.EndTraining();
  EXPECT_EQ(OfStep(share_), kThreads);
}

TEST_F(ThreadShareTest, UnlessToldOtherwiseTrainingHasHalfOfTheThreadsAndAtLeastOne) {
  for (const auto& [threads, layer, step] :
       {std::tuple(4, 2, 2), {3, 1, 2}, {2, 1, 1}, {1, 1, 1}}) {
    ThreadShare share({.threads = threads});
    share.BeginTraining();
    EXPECT_EQ(OfStep(share), step) << threads;
    EXPECT_EQ(OfLayer(share), layer) << threads;
  }
}

TEST_F(ThreadShareTest, TrainingThatMayHaveAllThreadsLeavesTheStepOne) {
  ThreadShare share({.threads = 2, .update_threads = 5});
  share.BeginTraining();
  EXPECT_EQ(OfStep(share), 1);
  EXPECT_EQ(OfLayer(share), 2);
}

TEST_F(ThreadShareTest, FixedBothAlwaysHaveAllThreads) {
  ThreadShare share({.threads = kThreads, .update_threads = kUpdateThreads, .fixed = true});
  share.BeginTraining();
  EXPECT_EQ(OfLayer(share), kThreads);
  EXPECT_EQ(OfStep(share), kThreads);
  EXPECT_EQ(OfLayer(share), kThreads);
  share.EndStep();
  share.Rest();
  EXPECT_EQ(OfLayer(share), kThreads);
  share.EndTraining();
  EXPECT_EQ(OfStep(share), kThreads);
}

TEST_F(ThreadShareTest, UnderPressureAFixedNumberOfStepsPassesBeforeEachLayer) {
  constexpr int kLayers = 200;
  std::atomic<int> steps = 0, layers = 0;
  share_.SetPressure(true);
  OfStep(share_);
  share_.BeginTraining();
  Trainer trainer([&] {
    for (int layer = 1; layer <= kLayers; ++layer) {
      share_.BeforeLayer();
      EXPECT_EQ(steps, layer * ThreadShare::kStepsPerLayer);
      EXPECT_EQ(at::get_num_threads(), kUpdateThreads);
      ++layers;
    }
  });
  for (int layer = 1; layer <= kLayers && !HasFailure(); ++layer) {
    EXPECT_TRUE(TrainingWaits());
    for (int step = 0; step < ThreadShare::kStepsPerLayer; ++step) {
      EXPECT_EQ(OfStep(share_), kThreads);
      ++steps;
      share_.EndStep();
    }
    EXPECT_TRUE(Eventually([&] { return layers == layer; }));
  }
  share_.Rest();  // after a failure the trainer still waits
}

TEST_F(ThreadShareTest, WithoutPressureALayerWaitsForNoStep) {
  share_.BeginTraining();
  OfStep(share_);
  for (int layer = 0; layer < 10; ++layer) EXPECT_EQ(OfLayer(share_), kUpdateThreads);
}

TEST_F(ThreadShareTest, UnderPressureALayerWaitsForNothingWhereNobodySteps) {
  share_.SetPressure(true);
  share_.BeginTraining();
  EXPECT_EQ(OfLayer(share_), kThreads);
}

TEST_F(ThreadShareTest, RestLetsTrainingThatWaitsGoOnWithAllThreads) {
  share_.SetPressure(true);
  OfStep(share_);
  share_.BeginTraining();
  Trainer trainer([&] {
    share_.BeforeLayer();
    EXPECT_EQ(at::get_num_threads(), kThreads);
  });
  EXPECT_TRUE(TrainingWaits());
  share_.Rest();
}

TEST_F(ThreadShareTest, TheEndOfThePressureLetsTrainingThatWaitsGoOnBesideTheStep) {
  share_.SetPressure(true);
  OfStep(share_);
  share_.BeginTraining();
  Trainer trainer([&] {
    share_.BeforeLayer();
    EXPECT_EQ(at::get_num_threads(), kUpdateThreads);
  });
  EXPECT_TRUE(TrainingWaits());
  share_.SetPressure(false);
}

}  // namespace
}  // namespace mayfly
