#pragma once

// What every benchmark here reports; run.py reads it.

#include <sys/resource.h>

#include <cstdint>

#include "benchmark/benchmark.h"

namespace mayfly {

// The peers compute with as many (run.py).
inline constexpr int kBenchThreads = 2;

// `tokens` of each iteration, and the peak resident memory of the process so far.
inline void Report(int64_t tokens, benchmark::State* state) {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  state->SetItemsProcessed(state->iterations() * tokens);
  state->counters["peak_rss_bytes"] = static_cast<double>(usage.ru_maxrss) * 1024;
}

}  // namespace mayfly
