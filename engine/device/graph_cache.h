#pragma once

// Recorded decode steps, one a batch size. A small step's kernels are shorter than their launches;
// a graph launches them all at once. Batches are filled up to the next of a few sizes ("buckets"),
// so that a handful of graphs serve them all. Owned by what runs the steps; its thread.

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "engine/device/device_ops.h"

namespace mayfly {

class GraphCache {
 public:
  static constexpr std::array<int64_t, 7> kBuckets = {1, 2, 4, 8, 16, 32, 64};
  // The smallest bucket that holds `rows`, if one does.
  static std::optional<int64_t> BucketFor(int64_t rows);

  // Null: steps are not recorded, only run.
  explicit GraphCache(const DeviceOps* ops) : ops_(ops) {}

  // Runs `step`, which reads and writes the same tensors whenever it runs for this bucket. The
  // first time it is run, and then recorded; from then on the record runs. Where recording fails
  // the bucket's steps go on being run. Throws what `step` throws.
  void Run(int64_t bucket, const std::function<void()>& step);
  // Forgets every record. Whoever changes a tensor's place that a step uses calls this before the
  // next step.
  void Invalidate() { graphs_.clear(); }

  // Buckets that are recorded.
  int64_t recorded() const;
  // Why the last recording failed, if it did.
  const absl::Status& failure() const { return failure_; }

 private:
  const DeviceOps* const ops_;
  // Null: could not be recorded.
  std::map<int64_t, std::unique_ptr<DeviceGraph>> graphs_;
  absl::Status failure_;
};

}  // namespace mayfly
