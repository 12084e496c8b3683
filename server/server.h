#pragma once

// Everything between the engine and the clients: sessions, services, listeners, health and metrics,
// built and taken down in the right order. Owned by main (or a test); its calls come from one
// thread.

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mutex.h"
#include "engine/engine.h"
#include "engine/metrics.h"
#include "server/admin_service.h"
#include "server/busy_ratio.h"
#include "server/config.h"
#include "server/grpc_server.h"
#include "server/health.h"
#include "server/inference_service.h"
#include "server/metrics_server.h"
#include "server/metrics_table.h"
#include "server/security.h"
#include "server/server_metrics.h"
#include "session/metrics.h"
#include "session/session_manager.h"

namespace mayfly {

class Server {
 public:
  // What the server stands on. All outlive it but the engine, which may go once the server was
  // stopped.
  struct Foundation {
    Engine* engine;
    const EngineMetrics* engine_metrics;
    const Clock* clock;
    const Logger* logger;
    // Null: no snapshots.
    SnapshotVault* vault = nullptr;
  };

  // When the sessions that are left are ended.
  struct DrainDeadline {
    TimePoint time;
    double unix_seconds = 0;  // as clients are told
  };

  // Listens and serves. INVALID_ARGUMENT when the configured defaults of the sessions do not fit
  // the model or a file cannot be used, UNAVAILABLE when an address cannot be had.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const Config& config,
                                                       const Foundation& foundation);
  ~Server();

  // Where it listens, with the ports that were chosen; empty where there is no such listener.
  std::string address() const { return main_->address(); }
  std::string http_address() const { return http_ == nullptr ? "" : http_->address(); }
  std::string health_address() const { return probes_ == nullptr ? "" : probes_->address(); }

  // Called at least every `tick_seconds`: ends expired sessions, reads changed certificates and
  // tokens, and measures. False once the engine has failed.
  bool Tick();
  // A second, or less while somebody waits for a row.
  double tick_seconds() const { return sessions_.SecondsToExpiry(); }

  // Not ready first, then no new sessions; open ones are told that they have `timeout_seconds`.
  // Only the first call counts; returns its deadline. Thread-safe: operators drain too.
  DrainDeadline StartDrain(double timeout_seconds);
  // Nothing before StartDrain. Thread-safe.
  std::optional<DrainDeadline> drain_deadline() const;
  // Every session has ended and given its row back.
  bool idle() const;
  // Ends every session with UNAVAILABLE: once it lies in the snapshot store if there is one, or at
  // once.
  void HandOverSessions();
  void EndSessions();

  // Cuts off whatever is left and stops listening: no call comes in after it. The engine's own
  // threads still call the sessions; so stop first, then destroy the engine, then the server.
  void Stop();

  const SessionMetrics& session_metrics() const { return session_metrics_; }
  const ServerMetrics& server_metrics() const { return server_metrics_; }
  const SecurityMetrics& security_metrics() const { return security_->metrics(); }

 private:
  Server(const Config& config, const Foundation& foundation, std::unique_ptr<Security> security);
  absl::Status Listen(const Config& config);

  const Foundation foundation_;
  const std::unique_ptr<Security> security_;
  SessionMetrics session_metrics_;
  ServerMetrics server_metrics_;
  BusyRatio busy_ratio_;
  HealthBoard health_;
  SessionManager sessions_;
  InferenceService inference_service_;
  AdminService admin_service_;
  // One service belongs to one gRPC server.
  HealthService main_health_service_;
  HealthService probes_health_service_;
  const MetricsTable metrics_table_;

  mutable Mutex mu_;
  std::optional<DrainDeadline> drain_deadline_ ABSL_GUARDED_BY(mu_);

  bool stopped_ = false;
  // Listeners, last: they use all of the above.
  std::unique_ptr<MetricsServer> http_;
  std::unique_ptr<GrpcServer> probes_;
  std::unique_ptr<GrpcServer> main_;
};

}  // namespace mayfly
