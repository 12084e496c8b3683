#pragma once

// All sessions: admission, listing, expiry and drain. Thread-safe; nothing blocks but Drain's caller.

#include <functional>
#include <memory>
#include <string>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/engine.h"
#include "session/metrics.h"
#include "session/session.h"
#include "session/types.h"

namespace mayfly {

class SessionManager {
 public:
  struct Options {
    SessionLimits limits;
    // The server's defaults: applied over the preset and under the client's wishes.
    AdaptationWishes default_adaptation;
    SamplingWishes default_sampling;
  };

  // All pointers outlive the manager.
  SessionManager(Options options, Engine* engine, const Clock* clock, const Logger* logger,
                 SessionMetrics* metrics);
  ~SessionManager();

  // A session that has not opened yet. `on_ready`: see Outbox.
  std::shared_ptr<Session> Create(ClientIdentity client, std::function<void()> on_ready);

  // Stops admission and tells every open session; those still open at `deadline` are ended by
  // EndAll. Safe to call twice.
  void StartDrain(double deadline_unix_seconds);
  // Ends every session with UNAVAILABLE.
  void EndAll();
  // Ends sessions that idled or lived too long. Called about once a second.
  void ExpireSessions();

  int open_sessions() const;
  bool draining() const;

  const SessionLimits& limits() const;
  // Effective options of a session that wishes for nothing.
  AdaptationOptions DefaultAdaptation() const;
  SamplingOptions DefaultSampling() const;

 private:
  class Impl;
  const std::unique_ptr<Impl> impl_;
};

}  // namespace mayfly
