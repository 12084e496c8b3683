#pragma once

// A Trainer over the rows of a tiny model, on the caller's thread.

#include <utility>
#include <vector>

#include "engine/train/trainer.h"
#include "tests/parity/tiny_model.h"

namespace mayfly {

class TestTrainer {
 public:
  explicit TestTrainer(const TinyModel& tiny, int32_t threads = 1)
      : kv_(tiny.kv.get()),
        share_({.threads = threads}),
        trainer_(tiny.model.get(), tiny.layout.get(), tiny.numerics, &share_, &clock_, &metrics_,
                 [this](UpdateResult result) { results_.push_back(std::move(result)); }) {}

  // Results in the order in which they came.
  std::vector<UpdateResult> RunGroup(std::vector<UpdateJob> group) {
    for (UpdateJob& job : group) job.kv = kv_;
    trainer_.Run(std::move(group));
    return std::exchange(results_, {});
  }
  UpdateResult Run(const UpdateJob& job) { return RunGroup({job}).at(0); }
  const EngineMetrics& metrics() const { return metrics_; }

 private:
  const KvPool* const kv_;
  ThreadShare share_;
  const SteadyClock clock_;
  EngineMetrics metrics_;
  std::vector<UpdateResult> results_;
  Trainer trainer_;
};

}  // namespace mayfly
