#pragma once

// What the sessions count. Written by sessions, read by the metrics endpoint; all lock-free.

#include <array>
#include <vector>

#include "engine/base/metric.h"
#include "engine/metrics.h"
#include "session/types.h"

namespace mayfly {

struct SessionMetrics {
  Gauge active;
  Counter opened;
  // By CloseReason.
  std::array<Counter, 12> closed;
  // Rejected before a row was taken: no row, none in time, too many that wait, tenant's quota,
  // draining.
  Counter rejected_no_row;
  Counter rejected_wait;
  Counter rejected_queue_full;
  Counter rejected_quota;
  Counter rejected_draining;
  Gauge admission_waiting;
  // Of those that had to wait, whatever ended it.
  Histogram admission_wait_seconds{LatencyBounds()};
  // Commands refused as their tenant had no tokens left.
  Counter token_quota_refused;
  // Over all outboxes.
  Gauge outbox_events;
  Histogram duration_seconds{{1, 5, 15, 60, 300, 900, 3600, 14400, 86400}};
  Histogram time_to_first_token_seconds{LatencyBounds()};
  // Gaps between the tokens of one generation, by whether an update of any session was in flight.
  Histogram inter_token_seconds_training{LatencyBounds()};
  Histogram inter_token_seconds_idle{LatencyBounds()};
  Histogram append_seconds{LatencyBounds()};
  Histogram generate_seconds{LatencyBounds()};
  Histogram queue_seconds{LatencyBounds()};
  Gauge requests_running;
  Gauge requests_waiting;
  // What moves sessions: exports that clients asked for, opens that resume, and hand-overs at the
  // end of a drain.
  struct Attempts {
    Counter ok;
    Counter failed;
  };
  Attempts exports;
  Attempts resumes;
  Attempts hand_overs;
  // By FinishReason.
  std::array<Counter, 4> generations_finished;
  // By UpdateOutcome.
  std::array<Counter, 4> updates;
  Counter rollbacks;
  // Base minus adapter on a chunk before it is learned, nats per token.
  Histogram nll_gain{{-1, -.5, -.2, -.1, -.05, -.02, 0, .02, .05, .1, .2, .5, 1}};
  // Complete chunks not yet learned, summed over the sessions.
  Gauge lag_chunks;
  // Sessions with a chunk in hand; not shown, tells in which histogram a gap belongs.
  Gauge learning;
  // Chunks that waited, and chunks given up, because learning would have slowed tokens.
  Counter chunks_deferred;
  Counter chunks_skipped;
};

}  // namespace mayfly
