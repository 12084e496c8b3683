#pragma once

// What the server's security counts. Written by the thread that ticks, read by the metrics
// endpoint; all lock-free.

#include "engine/base/metric.h"

namespace mayfly {

struct SecurityMetrics {
  // Seconds since the Unix epoch; 0: no TLS.
  Gauge tls_expiry;
  // Changed files that could not be used; what they were to replace stays.
  Counter tls_reload_failures;
  Counter auth_reload_failures;
};

}  // namespace mayfly
