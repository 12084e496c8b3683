#pragma once

// All sessions: admission, expiry and drain. Built by main; thread-safe; nothing blocks. Its mutex
// is never held across a call into a session, and sessions call it (Admit, Release) without its
// mutex held.

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
#include "session/metrics.h"
#include "session/session.h"
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
  // Ends every session with UNAVAILABLE.
  void EndAll();
  // Ends sessions that idled or lived too long. Called about once a second.
  void ExpireSessions();

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
  };

  absl::Status Admit(const Session* session);
  void Release(const Session* session);
  std::vector<std::shared_ptr<Session>> Sessions() const;
  std::string NewId() const;

  const Session::Environment environment_;

  mutable Mutex mu_;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
  std::unordered_map<const Session*, Entry> sessions_ ABSL_GUARDED_BY(mu_);
  std::unordered_map<std::string, int> admitted_by_tenant_ ABSL_GUARDED_BY(mu_);
};

}  // namespace mayfly
