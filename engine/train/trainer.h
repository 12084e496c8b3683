#pragma once

// Trains adapters on an update stream, a group of rows in one pass. A job brings everything it
// touches (a row's optimizer state, its shadow weights and the place of its keys and values) and
// its result takes it back, so that nobody else reads or writes these meanwhile. The active serving
// copy is never written: an accepted update leaves the shadow holding the new weights, and the loop
// flips the two between two steps.
//
// Created by the engine loop, which owns it; Submit is called on the loop's thread.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "engine/base/clock.h"
#include "engine/device/stream.h"
#include "engine/device/thread_share.h"
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
  // Keys and values of the row; read in chunk scope.
  const KvPool* kv = nullptr;
  // Optimizer steps taken so far.
  int64_t steps = 0;
  // Position in the row's window of the chunk's first token.
  int64_t row_begin = 0;
  // The row holds the inputs of the adapter's first layer for all tokens that a pass in chunk scope
  // runs.
  bool inputs_are_kept = false;
  // Set by the loop: the update ends before its next layer.
  std::shared_ptr<std::atomic<bool>> cancelled;
  TimePoint queued;
  // Steps that read the shadow when it was the active copy are over.
  Event shadow_is_free;

  // Tokens of one of its training passes.
  int64_t PassTokens() const;
  // What the update costs, in tokens of a forward pass: a pass with its backward costs two
  // (algorithm: 4N against 2N operations a token).
  int64_t ServiceTokens() const;
  // It may be dropped after a step was taken, so the state before it is kept; there is room for
  // one.
  bool MayBeUndone() const { return work.epochs > 1 || work.measure_after; }
};

struct UpdateResult {
  RowHandle row;
  WorkId id = 0;
  // adapter_version is filled by the loop.
  UpdateDone done;
  // Optimizer steps taken, this update's included if it was kept.
  int64_t steps = 0;
  // Whatever came of it: all that it has written to the row is there.
  Event written;
};

class Trainer {
 public:
  // `deliver` is called on the update stream's thread with each job's result, exactly once a job.
  // All pointers outlive the trainer.
  Trainer(const CausalLm* model, const SlotLayout* layout, const Numerics& numerics,
          ThreadShare* thread_share, const Clock* clock, EngineMetrics* metrics,
          std::function<void(UpdateResult)> deliver);
  // Finishes what waits (jobs whose `cancelled` is set end at once).
  ~Trainer();

  // Trains the jobs' rows together. At most one job that may be undone, and that alone.
  void Submit(std::vector<UpdateJob> group);

  // Runs a group on the calling thread: what the stream's thread does, for tests and benchmarks.
  // Results go to `deliver`.
  void Run(std::vector<UpdateJob> group);

 private:
  class Lesson;
  struct Scratch;

  void Train(std::vector<UpdateJob> group);
  void TrainOneByOne(std::vector<UpdateJob> group);
  void Learn(std::vector<Lesson>& lessons);
  // One pass over the lessons that go on. False when one of them was cancelled meanwhile.
  bool Pass(const std::vector<Lesson*>& lessons, bool learn);
  void InitializeAdapters(const std::vector<Lesson*>& lessons, const TrainingTrace& trace);
  void Step(const std::vector<Lesson*>& lessons);
  void Finish(Lesson& lesson, bool cancelled);
  void Deliver(Lesson& lesson);

  const CausalLm* const model_;
  const SlotLayout* const layout_;
  const Numerics numerics_;
  ThreadShare* const thread_share_;
  const Clock* const clock_;
  EngineMetrics* const metrics_;
  const std::function<void(UpdateResult)> deliver_;

  // Used by whichever thread runs a group.
  const std::unique_ptr<Scratch> scratch_;

  Stream stream_;
};

}  // namespace mayfly
