#pragma once

// A scenario against a server: one run of it, or a search for the rate that the server sustains.
// Everything a run needs is in a Target, which outlives it. The calling thread is the run's loop.

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/base/clock.h"
#include "tests/load/capacity.h"
#include "tests/load/connection.h"
#include "tests/load/report_json.h"
#include "tests/load/runner.h"
#include "tests/load/scenario.h"

namespace mayfly::load {

struct Target {
  Channels channels;
  // Of the server's HTTP port; empty: its metrics are not scraped.
  std::string http_server;
  Material material;
  const Clock* clock = nullptr;
};

using OnProgress = std::function<void(const Progress&)>;

RunRecord RunScenario(const Scenario& scenario, const Target& target,
                      const OnProgress& on_progress);

struct Search {
  Capacity capacity;
  // One a trial, in their order.
  std::vector<RunRecord> runs;
};

// Tries the scenario at other rates than its own, at most `max_trials` of them, with the same seed.
// `on_trial` hears each rate before it is tried.
absl::StatusOr<Search> SearchCapacity(const Scenario& scenario, const Target& target,
                                      int max_trials, const OnProgress& on_progress,
                                      const std::function<void(double)>& on_trial);

}  // namespace mayfly::load
