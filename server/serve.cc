#include "server/serve.h"

#include <chrono>

namespace mayfly {
namespace {

// How often a drain looks whether it is done.
constexpr double kDrainPollSeconds = 0.05;
// For the sessions that remain to finish the update in hand and to be stored.
constexpr auto kHandOver = std::chrono::seconds(15);
// From the end of the sessions to their rows being free: an update stops at its next layer.
constexpr auto kRelease = std::chrono::seconds(10);

// A wait for the server to be idle, which signals may cut short.
class Patience {
 public:
  // `spare_signals`: as many signals change nothing.
  Patience(const Server& server, StopSignals* signals, const Clock* clock, int spare_signals)
      : server_(server), signals_(signals), clock_(clock), spare_signals_(spare_signals) {}

  // Returns the signal that came first, or 0 once the server is idle or it is `deadline`.
  int WaitUntil(TimePoint deadline) {
    while (!server_.idle() && clock_->Now() < deadline) {
      const int signal = signals_->WaitFor(kDrainPollSeconds);
      if (signal != 0 && spare_signals_-- == 0) return signal;
    }
    return 0;
  }

 private:
  const Server& server_;
  StopSignals* const signals_;
  const Clock* const clock_;
  int spare_signals_;
};

// A drain that an operator asked for through AdminService is not cut short by the SIGTERM that
// usually follows it.
int Drain(Server* server, StopSignals* signals, double timeout_seconds, bool signalled,
          const Clock* clock, const Logger* logger) {
  const TimePoint deadline = server->StartDrain(timeout_seconds).time;
  logger->Info("draining", {{"timeout_seconds", Seconds(deadline - clock->Now())}});
  Patience patience(*server, signals, clock, signalled ? 0 : 1);
  if (const int again = patience.WaitUntil(deadline); again != 0) return 128 + again;
  server->HandOverSessions();
  if (const int again = patience.WaitUntil(clock->Now() + kHandOver); again != 0) {
    return 128 + again;
  }
  server->EndSessions();
  if (const int again = patience.WaitUntil(clock->Now() + kRelease); again != 0) return 128 + again;
  logger->Info("drained");
  return 0;
}

}  // namespace

int ServeUntilStopped(Server* server, StopSignals* signals, double drain_timeout_seconds,
                      const Clock* clock, const Logger* logger) {
  int signal = 0;
  while (signal == 0 && !server->drain_deadline()) {
    signal = signals->WaitFor(server->tick_seconds());
    if (server->Tick()) continue;
    logger->Error("the engine has failed");
    server->EndSessions();
    return 1;
  }
  return Drain(server, signals, drain_timeout_seconds, signal != 0, clock, logger);
}

}  // namespace mayfly
