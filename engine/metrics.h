#pragma once

// What the engine counts. Written by engine threads, read by the metrics endpoint; all lock-free.

#include <vector>

#include "engine/base/metric.h"

namespace mayfly {

// 1-2-5 series, seconds: fine enough for a small model on a GPU, long enough for an update on a
// CPU.
inline std::vector<double> LatencyBounds() {
  return {.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 20, 50, 100};
}

struct EngineMetrics {
  Counter prompt_tokens;
  Counter generated_tokens;
  // Every epoch counted.
  Counter trained_tokens;
  Histogram prefill_step_seconds{LatencyBounds()};
  Histogram decode_step_seconds{LatencyBounds()};
  // Rows and tokens of a step.
  Histogram step_batch_size{{1, 2, 4, 8, 16, 32, 64, 128, 256}};
  Histogram step_tokens{{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096}};
  Histogram slot_release_seconds{LatencyBounds()};
  Histogram update_seconds{LatencyBounds()};
  Histogram update_queue_seconds{LatencyBounds()};
  // Seconds in which the update worker trained; its rate is the busy ratio.
  Gauge update_busy_seconds;
  Gauge updates_waiting;
  Gauge rows_free;
  Gauge rows_active;
  Gauge rows_closing;
};

}  // namespace mayfly
