#pragma once

// The server's own metrics beside a run: Prometheus' text read into values, fetched over HTTP, and
// what changed between two moments.

#include <map>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/base/clock.h"
#include "engine/base/mutex.h"

namespace mayfly::load {

// By name and labels as they stand in the text: `mayfly_slots{state="free"}`. Buckets of histograms
// are left out; their _sum and _count are there.
using MetricValues = std::map<std::string, double>;

MetricValues ParseMetrics(absl::string_view text);

struct Snapshot {
  TimePoint time;
  MetricValues values;

  // 0 when there is no such metric.
  double operator[](const std::string& name) const;
};

// The newest snapshot that is not later than `time`, else the first. `snapshots` is ascending and
// not empty.
const Snapshot& SnapshotAt(const std::vector<Snapshot>& snapshots, TimePoint time);

// GET http://`address`/metrics, in a few seconds at most.
absl::StatusOr<MetricValues> FetchMetrics(const std::string& address);

// Fetches about once a second, on a thread of its own, from construction to Stop.
class Scraper {
 public:
  // The clock outlives it.
  Scraper(std::string address, const Clock* clock);
  ~Scraper() { Stop(); }

  // Fetches a last time and gives everything that was fetched; a fetch that failed is left out.
  std::vector<Snapshot> Stop();

 private:
  void Run();
  void Fetch();

  const std::string address_;
  const Clock* const clock_;
  // Written by the thread, read after it was joined.
  std::vector<Snapshot> snapshots_;

  Mutex mu_;
  CondVar stop_;
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace mayfly::load
