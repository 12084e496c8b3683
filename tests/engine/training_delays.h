#pragma once

// Training that takes randomly long, counted in forward passes beside it, so that updates land at
// other places in every run of a seed and no clock is involved.

#include <chrono>
#include <cstdint>

#include "engine/base/mutex.h"
#include "engine/runtime/sampler.h"

namespace mayfly {

// Random choices that follow from a seed.
class Dice {
 public:
  explicit Dice(uint64_t seed) : seed_(seed) {}
  int32_t Roll(int32_t from, int32_t to) {
    return from + static_cast<int32_t>(UniformAt(seed_, draws_++) * (to - from + 1));
  }

 private:
  const uint64_t seed_;
  uint64_t draws_ = 0;
};

// Makes training wait, before each pass, for up to `longest` forward passes beside it. Thread-safe.
class TrainingDelays {
 public:
  TrainingDelays(uint64_t seed, int32_t longest) : longest_(longest), dice_(seed) {}

  // The hooks: before each forward pass, and before each pass of training.
  void OnForward() {
    MutexLock lock(&mu_);
    ++forwards_;
    changed_.NotifyAll();
  }
  void Hold() {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    MutexLock lock(&mu_);
    const int64_t enough = forwards_ + dice_.Roll(0, longest_);
    while (forwards_ < enough && !hurry_ && std::chrono::steady_clock::now() < deadline) {
      changed_.WaitFor(&mu_, std::chrono::seconds(1));
    }
  }
  // Nobody may be left to run forward passes, so training waits for none.
  void Hurry(bool hurry) {
    MutexLock lock(&mu_);
    hurry_ = hurry;
    changed_.NotifyAll();
  }

 private:
  const int32_t longest_;

  Mutex mu_;
  CondVar changed_;
  Dice dice_ ABSL_GUARDED_BY(mu_);
  int64_t forwards_ ABSL_GUARDED_BY(mu_) = 0;
  bool hurry_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace mayfly
