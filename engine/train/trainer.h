#pragma once

// Trains adapters on a thread of its own: one job at a time, in order. A job brings everything it
// touches (a row's optimizer state and the place of its keys and values) and its result takes it
// back, so that nobody else reads or writes the row's masters meanwhile. Serving weights are never
// written here: the loop publishes an accepted update between two steps.
//
// Created by the engine loop, which owns it; Submit and Stop are called on the loop's thread.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>

#include "engine/base/clock.h"
#include "engine/base/mailbox.h"
#include "engine/metrics.h"
#include "engine/model/causal_lm.h"
#include "engine/pool/adapter_pool.h"
#include "engine/types.h"

namespace mayfly {

// One update of one row.
struct UpdateJob {
  RowHandle row;
  WorkId id = 0;
  UpdateWork work;
  AdapterSpec spec;
  AdapterState state;
  // Optimizer steps taken so far.
  int64_t steps = 0;
  // Position in the row's window of the chunk's first token.
  int64_t row_begin = 0;
  // Set by the loop: the update ends before its next layer.
  std::shared_ptr<std::atomic<bool>> cancelled;
  TimePoint queued;
};

struct UpdateResult {
  RowHandle row;
  WorkId id = 0;
  // adapter_version is filled by the loop.
  UpdateDone done;
  // Optimizer steps taken, this update's included if it was kept.
  int64_t steps = 0;
};

class Trainer {
 public:
  // `deliver` is called on the worker with each job's result, exactly once a job.
  Trainer(const CausalLm* model, const KvPool* kv, const SlotLayout* layout,
          const Numerics& numerics, int32_t threads, const Clock* clock, EngineMetrics* metrics,
          std::function<void(UpdateResult)> deliver);
  // Finishes what waits (jobs whose `cancelled` is set end at once) and joins the worker.
  ~Trainer();

  void Submit(UpdateJob job);

  // Runs one job on the calling thread: what the worker does, for tests and benchmarks.
  UpdateResult Run(const UpdateJob& job);

 private:
  struct Scratch;
  void WorkerMain();
  void Train(const UpdateJob& job, UpdateResult* result);

  const CausalLm* const model_;
  const KvPool* const kv_;
  const SlotLayout* const layout_;
  const Numerics numerics_;
  const int32_t threads_;
  const Clock* const clock_;
  EngineMetrics* const metrics_;
  const std::function<void(UpdateResult)> deliver_;

  // Used by whichever thread runs a job.
  const std::unique_ptr<Scratch> scratch_;

  Mailbox<UpdateJob> jobs_;
  std::thread worker_;
};

}  // namespace mayfly
