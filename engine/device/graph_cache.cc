#include "engine/device/graph_cache.h"

#include <algorithm>
#include <utility>

#include "engine/device/torch_guard.h"

namespace mayfly {

std::optional<int64_t> GraphCache::BucketFor(int64_t rows) {
  const auto bucket = std::lower_bound(kBuckets.begin(), kBuckets.end(), rows);
  if (rows < 1 || bucket == kBuckets.end()) return std::nullopt;
  return *bucket;
}

void GraphCache::Run(int64_t bucket, const std::function<void()>& step) {
  const auto found = graphs_.find(bucket);
  if (found != graphs_.end() && found->second != nullptr) return found->second->Replay();
  // Also what makes libraries choose their kernels and take their memory, which no record can.
  step();
  if (ops_ == nullptr || found != graphs_.end()) return;
  std::unique_ptr<DeviceGraph> graph = ops_->NewGraph();
  const absl::Status status = RunGuarded("recording a step", [&] { graph->Capture(step); });
  if (!status.ok()) {
    failure_ = status;
    graph.reset();
  }
  graphs_.emplace(bucket, std::move(graph));
}

int64_t GraphCache::recorded() const {
  return std::count_if(graphs_.begin(), graphs_.end(),
                       [](const auto& entry) { return entry.second != nullptr; });
}

}  // namespace mayfly
