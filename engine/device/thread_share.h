#pragma once

// Shares a CPU's threads between the engine loop and the training beside it: whoever is alone has
// all of them, and when both run, training has its part and steps have the rest. Training takes
// turns layer by layer; under latency pressure it lets steps pass between two layers. Made by the
// engine loop; each function says whose thread calls it. On a GPU the threads hardly matter and the
// turns order the launches.

#include <cstdint>

#include "engine/base/mutex.h"

namespace mayfly {

struct ThreadShareOptions {
  int32_t threads = 1;
  // Of training beside steps; 0: half of `threads`, at least one.
  int32_t update_threads = 0;
  // Both always use all threads, so that no sum is ever split differently.
  bool fixed = false;
};

class ThreadShare {
 public:
  explicit ThreadShare(const ThreadShareOptions& options);

  // ---- The loop's thread ----------------------------------------------------------------------

  // Around every step; sets the thread count of the step.
  void BeginStep();
  void EndStep();
  // No step follows for now.
  void Rest();
  // Whether training should let steps pass between layers.
  void SetPressure(bool pressure);

  // ---- The trainer's thread -------------------------------------------------------------------

  // Around a training pass.
  void BeginTraining();
  void EndTraining();
  // Before each layer: sets the thread count of the layer, after up to kStepsPerLayer steps have
  // passed where there is pressure.
  void BeforeLayer();

  static constexpr int kStepsPerLayer = 2;

 private:
  const int32_t threads_;
  const int32_t update_threads_;
  const bool fixed_;

  Mutex mu_;
  CondVar stepped_;
  bool stepping_ ABSL_GUARDED_BY(mu_) = false;
  bool training_ ABSL_GUARDED_BY(mu_) = false;
  bool pressure_ ABSL_GUARDED_BY(mu_) = false;
  uint64_t steps_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace mayfly
