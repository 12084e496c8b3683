#pragma once

// A run as JSON: what was asked, what clients saw, what the server counted meanwhile. The HTML page
// and docs/load.md are made from it. Pure.

#include <string>
#include <vector>

#include "client/proto_fields.h"
#include "tests/load/capacity.h"
#include "tests/load/recorder.h"
#include "tests/load/scenario.h"
#include "tests/load/scrape.h"

namespace mayfly::load {

using cli::Json;

// Everything that one run left.
struct RunRecord {
  Scenario scenario;
  Window window;
  Measurements measurements;
  // Of the server's metrics; empty when they were not scraped.
  std::vector<Snapshot> snapshots;
  // Of this process, from the run's start to its end.
  double client_cpu_seconds = 0;
};

// Whether enough turns kept the SLO; a run that judged none shows nothing.
bool KeptSlo(const RunRecord& run);

Json RunJson(const RunRecord& run);
Json CapacityJson(const Capacity& capacity);

}  // namespace mayfly::load
