#include "session/session_manager.h"

#include <algorithm>
#include <random>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "session/options_resolver.h"
#include "session/retry_after.h"

namespace mayfly {
namespace {

// How often sessions are looked at, and how closely at most.
constexpr double kTickSeconds = 1;
constexpr double kLeastTickSeconds = 0.001;
// One is copied and encoded while another is sealed and stored.
constexpr int kHandOversAtOnce = 2;

}  // namespace

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
          .vault = options.vault,
          .random = std::move(options.random),
          .admit = [this](const Session* session,
                          bool may_wait) { return Admit(session, may_wait); },
          .seconds_to_row = [this] { return SecondsToRow(); },
          .take_export_place = [this] { return TakeExportPlace(); },
          .check_tokens = [this](const Session* session) { return CheckTokens(session); },
          .spend_tokens = [this](const Session* session,
                                 uint64_t tokens) { SpendTokens(session, tokens); },
          .release = [this](const Session* session, bool had_row) { Release(session, had_row); },
      },
      quota_(options.limits.max_tokens_per_minute_per_tenant) {}

std::shared_ptr<Session> SessionManager::Create(ClientIdentity client,
                                                std::function<void()> on_ready) {
  auto session =
      std::make_shared<Session>(&environment_, NewId(), std::move(client), std::move(on_ready));
  MutexLock lock(&mu_);
  sessions_.emplace(session.get(), Entry{.session = session, .waits_since = {}});
  return session;
}

void SessionManager::StartDrain(double deadline_unix_seconds) {
  {
    MutexLock lock(&mu_);
    if (std::exchange(draining_, true)) return;
  }
  for (const auto& session : Sessions()) session->Drain(deadline_unix_seconds);
}

void SessionManager::HandOverAll() {
  std::vector<std::shared_ptr<Session>> all = Sessions();
  {
    MutexLock lock(&mu_);
    to_leave_ = std::move(all);
  }
  HandOverMore();
}

void SessionManager::HandOverMore() {
  hand_overs_.Add([this] {
    while (const std::shared_ptr<Session> next = TakeNextLeaving()) next->HandOver();
  });
  hand_overs_.Run();
}

std::shared_ptr<Session> SessionManager::TakeNextLeaving() {
  MutexLock lock(&mu_);
  while (!to_leave_.empty() && leaving_ < kHandOversAtOnce) {
    std::shared_ptr<Session> next = std::move(to_leave_.back());
    to_leave_.pop_back();
    const auto found = sessions_.find(next.get());
    if (found == sessions_.end()) continue;
    found->second.leaves = true;
    ++leaving_;
    return next;
  }
  return nullptr;
}

void SessionManager::EndAll() {
  for (const auto& session : Sessions()) {
    session->End(CloseReason::kDrained, absl::UnavailableError("the server is going away"));
  }
}

void SessionManager::ExpireSessions() {
  RefuseLateWaiters();
  for (const auto& session : Sessions()) session->Expire();
  MutexLock lock(&quota_mu_);
  quota_.Forget(environment_.clock->Now());
}

double SessionManager::SecondsToExpiry() const {
  double seconds = kTickSeconds;
  const double wait = environment_.limits.admission_wait_seconds;
  // Who begins to wait meanwhile is late only after the next call.
  if (wait > 0) seconds = std::min(seconds, wait);
  MutexLock lock(&mu_);
  if (const std::optional<TimePoint> next = waiting_.next_deadline()) {
    seconds = std::min(seconds, Seconds(*next - environment_.clock->Now()));
  }
  return std::max(seconds, kLeastTickSeconds);
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

absl::StatusOr<Admission> SessionManager::Admit(const Session* session, bool may_wait) {
  MutexLock lock(&mu_);
  MAYFLY_RETURN_IF_ERROR(CheckPlace(session));
  const double wait = environment_.limits.admission_wait_seconds;
  if (!may_wait && (waiting_.size() > 0 || !has_free_row())) {
    environment_.metrics->rejected_no_row.Increment();
    return WithRetryAfter(
        absl::ResourceExhaustedError(absl::StrCat(
            "all ", environment_.engine->info().rows,
            " rows are taken, and a snapshot that its client sends does not ", "wait for one")),
        SecondsToRowOrWait());
  }
  const bool now = wait == 0 || (waiting_.size() == 0 && has_free_row());
  if (!now && waiting_.size() >= static_cast<size_t>(environment_.limits.max_waiting_sessions)) {
    environment_.metrics->rejected_queue_full.Increment();
    return WithRetryAfter(absl::ResourceExhaustedError(absl::StrCat(
                              "no row is free and ", waiting_.size(),
                              " sessions wait for one, the limit max_waiting_sessions is ",
                              environment_.limits.max_waiting_sessions)),
                          SecondsToRowOrWait());
  }
  Entry& entry = sessions_.at(session);
  entry.admitted = true;
  ++admitted_by_tenant_[session->client().tenant];
  if (now) {
    entry.has_row = true;
    ++rows_taken_;
    return Admission::kNow;
  }
  const TimePoint begin = environment_.clock->Now();
  entry.waits_since = begin;
  waiting_.Add(session, session->client().tenant,
               begin + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(wait)));
  environment_.metrics->admission_waiting.Add(1);
  return Admission::kLater;
}

// Those that wait count too, so that no tenant fills the queue.
absl::Status SessionManager::CheckPlace(const Session* session) const {
  if (draining_) {
    environment_.metrics->rejected_draining.Increment();
    return absl::UnavailableError("the server is draining");
  }
  const auto found = admitted_by_tenant_.find(session->client().tenant);
  const int admitted = found == admitted_by_tenant_.end() ? 0 : found->second;
  const int limit = environment_.limits.max_sessions_per_tenant;
  if (limit == 0 || admitted < limit) return absl::OkStatus();
  environment_.metrics->rejected_quota.Increment();
  return absl::ResourceExhaustedError(absl::StrCat(
      "the tenant has ", admitted, " sessions, the limit max_sessions_per_tenant is ", limit));
}

ExportPlace SessionManager::TakeExportPlace() {
  if (exports_.fetch_add(1) < environment_.limits.max_exports) {
    return ExportPlace(&exports_, [this](const void*) { --exports_; });
  }
  --exports_;
  return nullptr;
}

std::optional<double> SessionManager::SecondsToRow() const {
  MutexLock lock(&mu_);
  return forecast_.SecondsToRow(waiting_.size());
}

double SessionManager::SecondsToRowOrWait() const {
  return forecast_.SecondsToRow(waiting_.size())
      .value_or(
          std::max(environment_.limits.admission_wait_seconds, ReleaseForecast::kLeastSeconds));
}

absl::Status SessionManager::CheckTokens(const Session* session) const {
  MutexLock lock(&quota_mu_);
  const Duration wait = quota_.WaitFor(session->client().tenant, environment_.clock->Now());
  if (wait <= Duration::zero()) return absl::OkStatus();
  environment_.metrics->token_quota_refused.Increment();
  return WithRetryAfter(
      absl::ResourceExhaustedError(absl::StrCat(
          "the tenant has used its tokens, the limit max_tokens_per_minute_per_tenant is ",
          quota_.tokens_per_minute(), "; try again in ", Seconds(wait), " seconds")),
      Seconds(wait));
}

void SessionManager::SpendTokens(const Session* session, uint64_t tokens) {
  if (environment_.limits.max_tokens_per_minute_per_tenant == 0) return;
  MutexLock lock(&quota_mu_);
  quota_.Spend(session->client().tenant, tokens, environment_.clock->Now());
}

void SessionManager::Release(const Session* session, bool had_row) {
  // Destroyed, if this was its last owner, once the mutex is free.
  const Entry entry = Remove(session, had_row);
  if (entry.has_row) AdmitWaiting();
  if (entry.leaves) HandOverMore();
}

SessionManager::Entry SessionManager::Remove(const Session* session, bool had_row) {
  MutexLock lock(&mu_);
  const auto found = sessions_.find(session);
  if (found == sessions_.end()) return Entry();
  Entry entry = std::move(found->second);
  sessions_.erase(found);
  if (waiting_.Remove(session)) EndWaiting(&entry);
  if (entry.has_row) --rows_taken_;
  if (entry.leaves) --leaving_;
  if (had_row) forecast_.OnRelease(environment_.clock->Now());
  if (!entry.admitted) return entry;
  const auto tenant = admitted_by_tenant_.find(session->client().tenant);
  if (--tenant->second == 0) admitted_by_tenant_.erase(tenant);
  return entry;
}

void SessionManager::AdmitWaiting() {
  admissions_.Add([this] {
    while (const std::shared_ptr<Session> next = TakeNextWaiting()) next->Admitted();
  });
  admissions_.Run();
}

std::shared_ptr<Session> SessionManager::TakeNextWaiting() {
  MutexLock lock(&mu_);
  if (draining_ || !has_free_row()) return nullptr;
  const std::optional<AdmissionQueue::Waiter> next = waiting_.TakeNext();
  if (!next) return nullptr;
  Entry& entry = sessions_.at(static_cast<const Session*>(*next));
  EndWaiting(&entry);
  entry.has_row = true;
  ++rows_taken_;
  return entry.session;
}

void SessionManager::RefuseLateWaiters() {
  std::vector<std::shared_ptr<Session>> late;
  absl::Status status = absl::ResourceExhaustedError(absl::StrCat(
      "no row came free within admission_wait, ", environment_.limits.admission_wait_seconds,
      " seconds: all ", environment_.engine->info().rows, " rows are taken"));
  {
    MutexLock lock(&mu_);
    for (const AdmissionQueue::Waiter waiter : waiting_.TakeExpired(environment_.clock->Now())) {
      Entry& entry = sessions_.at(static_cast<const Session*>(waiter));
      EndWaiting(&entry);
      environment_.metrics->rejected_wait.Increment();
      late.push_back(entry.session);
    }
    status = WithRetryAfter(std::move(status), SecondsToRowOrWait());
  }
  for (const auto& session : late) session->End(CloseReason::kNoRow, status);
}

void SessionManager::EndWaiting(Entry* entry) {
  SessionMetrics& metrics = *environment_.metrics;
  metrics.admission_waiting.Add(-1);
  metrics.admission_wait_seconds.Observe(Seconds(environment_.clock->Now() - *entry->waits_since));
  entry->waits_since.reset();
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
