#include "session/session_manager.h"

#include <algorithm>
#include <random>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "session/options_resolver.h"

namespace mayfly {

uint64_t SystemRandom() {
  std::random_device device;
  return std::uniform_int_distribution<uint64_t>()(device);
}

SessionManager::SessionManager(Options options, Engine* engine, const Clock* clock,
                               const Logger* logger, SessionMetrics* metrics)
    : environment_{
          .engine = engine,
          .clock = clock,
          .logger = logger,
          .metrics = metrics,
          .limits = options.limits,
          .default_adaptation = std::move(options.default_adaptation),
          .default_sampling = std::move(options.default_sampling),
          .random = std::move(options.random),
          .admit = [this](const Session* session) { return Admit(session); },
          .release = [this](const Session* session) { Release(session); },
      } {}

std::shared_ptr<Session> SessionManager::Create(ClientIdentity client,
                                                std::function<void()> on_ready) {
  auto session =
      std::make_shared<Session>(&environment_, NewId(), std::move(client), std::move(on_ready));
  MutexLock lock(&mu_);
  sessions_.emplace(session.get(), Entry{session});
  return session;
}

void SessionManager::StartDrain(double deadline_unix_seconds) {
  {
    MutexLock lock(&mu_);
    if (std::exchange(draining_, true)) return;
  }
  for (const auto& session : Sessions()) session->Drain(deadline_unix_seconds);
}

void SessionManager::EndAll() {
  for (const auto& session : Sessions()) {
    session->End(CloseReason::kDrained, absl::UnavailableError("the server is going away"));
  }
}

void SessionManager::ExpireSessions() {
  for (const auto& session : Sessions()) session->Expire();
}

std::vector<SessionInfo> SessionManager::List(const std::optional<std::string>& tenant) const {
  std::vector<SessionInfo> infos;
  for (const auto& session : Sessions()) {
    if (tenant && session->client().tenant != *tenant) continue;
    if (auto info = session->Info()) infos.push_back(*std::move(info));
  }
  std::sort(infos.begin(), infos.end(), [](const SessionInfo& a, const SessionInfo& b) {
    return std::tie(b.age_seconds, a.id) < std::tie(a.age_seconds, b.id);
  });
  return infos;
}

std::shared_ptr<Session> SessionManager::Find(const std::string& id,
                                              const std::optional<std::string>& tenant) const {
  for (auto& session : Sessions()) {
    if (session->id() == id && (!tenant || session->client().tenant == *tenant)) return session;
  }
  return nullptr;
}

int SessionManager::open_sessions() const {
  MutexLock lock(&mu_);
  return static_cast<int>(sessions_.size());
}

bool SessionManager::draining() const {
  MutexLock lock(&mu_);
  return draining_;
}

AdaptationOptions SessionManager::DefaultAdaptation() const {
  const EngineInfo& engine = environment_.engine->info();
  return ResolveAdaptation({}, environment_.default_adaptation, engine, engine.window_tokens, 0)
      .value_or(AdaptationOptions{});
}

SamplingOptions SessionManager::DefaultSampling() const {
  return ResolveSampling({}, {}, environment_.default_sampling, 0).value_or(SamplingOptions{});
}

absl::Status SessionManager::Admit(const Session* session) {
  const std::string& tenant = session->client().tenant;
  const int limit = environment_.limits.max_sessions_per_tenant;
  MutexLock lock(&mu_);
  if (draining_) {
    environment_.metrics->rejected_draining.Increment();
    return absl::UnavailableError("the server is draining");
  }
  int& admitted = admitted_by_tenant_[tenant];
  if (limit > 0 && admitted >= limit) {
    environment_.metrics->rejected_quota.Increment();
    return absl::ResourceExhaustedError(absl::StrCat("the tenant has ", admitted,
                                                     " sessions, the limit "
                                                     "max_sessions_per_tenant is ",
                                                     limit));
  }
  ++admitted;
  sessions_.at(session).admitted = true;
  return absl::OkStatus();
}

void SessionManager::Release(const Session* session) {
  // Destroyed, if this was its last owner, once the mutex is free.
  Entry entry;
  MutexLock lock(&mu_);
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return;
  entry = std::move(found->second);
  sessions_.erase(found);
  if (!entry.admitted) return;
  const auto tenant = admitted_by_tenant_.find(session->client().tenant);
  if (--tenant->second == 0) admitted_by_tenant_.erase(tenant);
}

std::vector<std::shared_ptr<Session>> SessionManager::Sessions() const {
  MutexLock lock(&mu_);
  std::vector<std::shared_ptr<Session>> sessions;
  sessions.reserve(sessions_.size());
  for (const auto& [unused, entry] : sessions_) sessions.push_back(entry.session);
  return sessions;
}

std::string SessionManager::NewId() const {
  return absl::StrFormat("%016x%016x", environment_.random(), environment_.random());
}

}  // namespace mayfly
