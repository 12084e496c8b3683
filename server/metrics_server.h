#pragma once

// Plain HTTP for operators: /metrics for Prometheus, /healthz (is the process alive) and /readyz
// (does it take work). Owned by the Server; answers on two threads of its own.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "prometheus/collectable.h"
#include "server/health.h"

struct mg_context;
struct mg_connection;

namespace mayfly {

class MetricsServer {
 public:
  // `address` is host:port; port 0 lets the system choose. The pointers outlive the server.
  static absl::StatusOr<std::unique_ptr<MetricsServer>> Start(
      const std::string& address, const prometheus::Collectable* metrics,
      const HealthBoard* health);
  ~MetricsServer();

  // Where it listens, with the port that was chosen.
  const std::string& address() const { return address_; }

 private:
  MetricsServer(const prometheus::Collectable* metrics, const HealthBoard* health);

  // civetweb's callback for every request: answers it and returns the status that was sent.
  static int Serve(mg_connection* connection);
  std::string MetricsText() const;

  const prometheus::Collectable* const metrics_;
  const HealthBoard* const health_;
  std::string address_;
  mg_context* context_ = nullptr;
};

}  // namespace mayfly
