#include "server/server.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "engine/base/status_macros.h"
#include "session/options_resolver.h"

namespace mayfly {
namespace {

// For what a client has not yet read when its session is ended.
constexpr double kLastWordsSeconds = 2;

// Would a session that wishes for nothing get valid options?
absl::Status CheckSessionDefaults(const SessionManager::Options& options, const EngineInfo& info) {
  MAYFLY_RETURN_IF_ERROR(
      ResolveAdaptation({}, options.default_adaptation, info, info.window_tokens, 0).status());
  return ResolveSampling({}, {}, options.default_sampling, 0).status();
}

SessionManager::Options With(SnapshotVault* vault, SessionManager::Options options) {
  options.vault = vault;
  return options;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const Config& config,
                                                      const Foundation& foundation) {
  MAYFLY_RETURN_IF_ERROR(CheckSessionDefaults(config.sessions, foundation.engine->info()));
  MAYFLY_ASSIGN_OR_RETURN(auto security, Security::Create(config, foundation.logger));
  std::unique_ptr<Server> server(new Server(config, foundation, std::move(security)));
  MAYFLY_RETURN_IF_ERROR(server->Listen(config));
  server->health_.SetReady(true);
  return server;
}

Server::Server(const Config& config, const Foundation& foundation,
               std::unique_ptr<Security> security)
    : foundation_(foundation),
      security_(std::move(security)),
      sessions_(With(foundation.vault, config.sessions), foundation.engine, foundation.clock,
                foundation.logger, &session_metrics_),
      inference_service_(foundation.engine, &sessions_, &security_->auth(), &server_metrics_,
                         config.max_message_bytes),
      admin_service_(
          &sessions_, &security_->auth(),
          [this, timeout = config.drain_timeout_seconds] {
            return StartDrain(timeout).unix_seconds;
          },
          &server_metrics_, foundation.logger),
      main_health_service_(&health_, &server_metrics_),
      probes_health_service_(&health_, &server_metrics_),
      metrics_table_({.engine = foundation.engine,
                      .engine_metrics = foundation.engine_metrics,
                      .session_metrics = &session_metrics_,
                      .server_metrics = &server_metrics_,
                      .security_metrics = &security_->metrics()}) {}

absl::Status Server::Listen(const Config& config) {
  if (!config.http_listen.empty()) {
    MAYFLY_ASSIGN_OR_RETURN(http_,
                            MetricsServer::Start(config.http_listen, &metrics_table_, &health_));
  }
  if (!config.health_listen.empty()) {
    MAYFLY_ASSIGN_OR_RETURN(
        probes_, GrpcServer::Start({.address = config.health_listen}, {&probes_health_service_},
                                   foundation_.logger));
  }
  MAYFLY_ASSIGN_OR_RETURN(
      main_,
      GrpcServer::Start(
          {.address = config.listen,
           .credentials = security_->credentials(),
           .max_message_bytes = config.max_message_bytes,
           .max_connection_age_seconds = config.max_connection_age_seconds,
           .max_connection_age_grace_seconds = config.max_connection_age_grace_seconds},
          {&inference_service_, &admin_service_, &main_health_service_}, foundation_.logger));
  return absl::OkStatus();
}

Server::~Server() { Stop(); }

void Server::Stop() {
  if (std::exchange(stopped_, true)) return;
  health_.SetReady(false);
  EndSessions();
  health_.Close();
  if (main_ != nullptr) main_->Shutdown(kLastWordsSeconds);
  if (probes_ != nullptr) probes_->Shutdown(0);
  http_.reset();
}

bool Server::Tick() {
  sessions_.ExpireSessions();
  security_->Reload();
  server_metrics_.update_busy_ratio.Set(busy_ratio_.Sample(
      foundation_.clock->Now(), foundation_.engine_metrics->update_busy_seconds.value()));
  if (foundation_.engine->healthy()) return true;
  health_.SetReady(false);
  health_.SetAlive(false);
  return false;
}

Server::DrainDeadline Server::StartDrain(double timeout_seconds) {
  const auto timeout = std::chrono::duration<double>(timeout_seconds);
  DrainDeadline deadline{foundation_.clock->Now() + std::chrono::duration_cast<Duration>(timeout),
                         absl::ToUnixMicros(absl::Now()) * 1e-6 + timeout_seconds};
  {
    MutexLock lock(&mu_);
    if (drain_deadline_) return *drain_deadline_;
    drain_deadline_ = deadline;
  }
  health_.SetReady(false);
  sessions_.StartDrain(deadline.unix_seconds);
  return deadline;
}

std::optional<Server::DrainDeadline> Server::drain_deadline() const {
  MutexLock lock(&mu_);
  return drain_deadline_;
}

bool Server::idle() const {
  return sessions_.open_sessions() == 0 &&
         foundation_.engine->free_rows() == foundation_.engine->info().rows;
}

void Server::HandOverSessions() { sessions_.HandOverAll(); }

void Server::EndSessions() { sessions_.EndAll(); }

}  // namespace mayfly
