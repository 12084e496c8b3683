#pragma once

// Every metric of the server, by name, in Prometheus' terms: one table that reads the storeys'
// counters. Names and labels are a contract with dashboards and alerts. Pure reads; any thread.

#include <vector>

#include "engine/engine.h"
#include "engine/metrics.h"
#include "prometheus/collectable.h"
#include "prometheus/metric_family.h"
#include "server/security_metrics.h"
#include "server/server_metrics.h"
#include "session/metrics.h"

namespace mayfly {

// Where values come from; all outlive whoever collects.
struct MetricSources {
  const Engine* engine;
  const EngineMetrics* engine_metrics;
  const SessionMetrics* session_metrics;
  const ServerMetrics* server_metrics;
  const SecurityMetrics* security_metrics;
};

class MetricsTable final : public prometheus::Collectable {
 public:
  explicit MetricsTable(const MetricSources& sources) : sources_(sources) {}

  std::vector<prometheus::MetricFamily> Collect() const override;

 private:
  const MetricSources sources_;
};

}  // namespace mayfly
