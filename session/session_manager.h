#pragma once

// All sessions: admission, quotas, expiry and drain. Built by main; thread-safe; nothing blocks.
// Its mutexes are never held across a call into a session, and sessions call it
// (Session::Environment) without them held.
//
// With an admission_wait it counts rows itself: a session that is admitted has one from then until
// it is over, so the engine, whose answer is the last word, never lacks a row for it, and nobody
// overtakes those that wait. Without one it asks the engine, which then refuses.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mutex.h"
#include "engine/engine.h"
#include "session/admission_queue.h"
#include "session/call_queue.h"
#include "session/metrics.h"
#include "session/release_forecast.h"
#include "session/session.h"
#include "session/token_quota.h"
#include "session/types.h"

namespace mayfly {

// 64 bits from the operating system.
uint64_t SystemRandom();

class SessionManager {
 public:
  struct Options {
    SessionLimits limits;
    // The server's defaults: applied over the preset and under the client's wishes.
    AdaptationWishes default_adaptation;
    SamplingWishes default_sampling;
    // Outlives the manager; null: no snapshots.
    SnapshotVault* vault = nullptr;
    // Makes session ids, which nobody may guess, and the seeds that clients do not give.
    std::function<uint64_t()> random = SystemRandom;
  };

  // All pointers outlive the manager, and the manager its sessions.
  SessionManager(Options options, Engine* engine, const Clock* clock, const Logger* logger,
                 SessionMetrics* metrics);

  // A session that has not opened yet. `on_ready`: see Outbox.
  std::shared_ptr<Session> Create(ClientIdentity client, std::function<void()> on_ready);

  // Stops admission, tells every open session and ends those that have not opened; those still open
  // at the deadline are ended by EndAll. Safe to call twice.
  void StartDrain(double deadline_unix_seconds);
  // Ends every session with UNAVAILABLE, as soon as it lies in the store if there is one
  // (Session::HandOver). A few at a time, since each is copied on its way.
  void HandOverAll();
  // Ends every session with UNAVAILABLE, now.
  void EndAll();
  // Ends sessions that idled, lived or waited for a row too long, and those of slow readers.
  void ExpireSessions();
  // ExpireSessions should be called again after this time: a second, or less so that nobody waits
  // for a row for longer than he may.
  double SecondsToExpiry() const;

  // For operators. With a tenant: as if there were no sessions but that tenant's.
  std::vector<SessionInfo> List(const std::optional<std::string>& tenant) const;
  // Null if there is no such session.
  std::shared_ptr<Session> Find(const std::string& id,
                                const std::optional<std::string>& tenant) const;

  // Sessions that are not over: their row, if they have one, is not free yet.
  int open_sessions() const;
  bool draining() const;

  const SessionLimits& limits() const { return environment_.limits; }
  // Effective options of a session that wishes for nothing; the built-in ones where the server's
  // defaults do not fit the engine.
  AdaptationOptions DefaultAdaptation() const;
  SamplingOptions DefaultSampling() const;

 private:
  struct Entry {
    std::shared_ptr<Session> session;
    // Counts against its tenant.
    bool admitted = false;
    // Has a row, or has asked the engine for one.
    bool has_row = false;
    // Is being handed over.
    bool leaves = false;
    // Since when it waits for a row, if it does.
    std::optional<TimePoint> waits_since;
  };

  absl::StatusOr<Admission> Admit(const Session* session, bool may_wait);
  ExportPlace TakeExportPlace();
  absl::Status CheckPlace(const Session* session) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  std::optional<double> SecondsToRow() const;
  double SecondsToRowOrWait() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CheckTokens(const Session* session) const;
  void SpendTokens(const Session* session, uint64_t tokens);
  void Release(const Session* session, bool had_row);
  Entry Remove(const Session* session, bool had_row);
  // Tells those whose turn has come.
  void AdmitWaiting();
  // The next one that gets a row; null when nobody waits or no row is free.
  std::shared_ptr<Session> TakeNextWaiting();
  void RefuseLateWaiters();
  // Hands over as many as may be under way at once.
  void HandOverMore();
  std::shared_ptr<Session> TakeNextLeaving();
  // It waits no more.
  void EndWaiting(Entry* entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool has_free_row() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return rows_taken_ < environment_.engine->info().rows;
  }
  std::vector<std::shared_ptr<Session>> Sessions() const;
  std::string NewId() const;

  const Session::Environment environment_;

  mutable Mutex mu_;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  std::unordered_map<const Session*, Entry> sessions_ ABSL_GUARDED_BY(mu_);
  std::unordered_map<std::string, int> admitted_by_tenant_ ABSL_GUARDED_BY(mu_);
  // Sessions that have a row or have asked the engine for one.
  int rows_taken_ ABSL_GUARDED_BY(mu_) = 0;
  AdmissionQueue waiting_ ABSL_GUARDED_BY(mu_);
  ReleaseForecast forecast_ ABSL_GUARDED_BY(mu_);
  // Those that HandOverAll has found and that have not been told, and how many are on their way.
  std::vector<std::shared_ptr<Session>> to_leave_ ABSL_GUARDED_BY(mu_);
  int leaving_ ABSL_GUARDED_BY(mu_) = 0;
  // One after the other, however deep in each other's calls sessions end and begin.
  CallQueue admissions_;
  CallQueue hand_overs_;

  std::atomic<int> exports_{0};

  // Apart from the rest: asked for every token.
  mutable Mutex quota_mu_;
  TokenQuota quota_ ABSL_GUARDED_BY(quota_mu_);
};

}  // namespace mayfly
