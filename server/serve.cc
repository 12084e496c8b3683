#include "server/serve.h"

namespace mayfly {
namespace {

// How often a drain looks whether it is done.
constexpr double kDrainPollSeconds = 0.05;
// For the sessions that remain to finish the update in hand and to be stored.
constexpr double kHandOverSeconds = 15;
// From the end of the sessions to their rows being free: an update stops at its next layer.
constexpr double kReleaseSeconds = 10;

// Waits until the server is idle. Returns a signal that came first, or 0 at the end or after
// `seconds`.
int WaitUntilIdle(const Server& server, StopSignals* signals, double seconds, const Clock* clock) {
  const TimePoint start = clock->Now();
  while (!server.idle() && Seconds(clock->Now() - start) < seconds) {
    if (const int signal = signals->WaitFor(kDrainPollSeconds); signal != 0) return signal;
  }
  return 0;
}

int Drain(Server* server, StopSignals* signals, double timeout_seconds, const Clock* clock,
          const Logger* logger) {
  logger->Info("draining", {{"timeout_seconds", timeout_seconds}});
  server->StartDrain(timeout_seconds);
  if (const int again = WaitUntilIdle(*server, signals, timeout_seconds, clock); again != 0) {
    return 128 + again;
  }
  server->HandOverSessions();
  if (const int again = WaitUntilIdle(*server, signals, kHandOverSeconds, clock); again != 0) {
    return 128 + again;
  }
  server->EndSessions();
  if (const int again = WaitUntilIdle(*server, signals, kReleaseSeconds, clock); again != 0) {
    return 128 + again;
  }
  logger->Info("drained");
  return 0;
}

}  // namespace

int ServeUntilStopped(Server* server, StopSignals* signals, double drain_timeout_seconds,
                      const Clock* clock, const Logger* logger) {
  int signal = 0;
  while (signal == 0) {
    signal = signals->WaitFor(server->tick_seconds());
    if (server->Tick()) continue;
    logger->Error("the engine has failed");
    server->EndSessions();
    return 1;
  }
  return Drain(server, signals, drain_timeout_seconds, clock, logger);
}

}  // namespace mayfly
