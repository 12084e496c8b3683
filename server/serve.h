#pragma once

// From the first request to the last: keeps a started server running until a signal, or an
// operator's call of Drain, then drains it.

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "server/server.h"
#include "server/stop_signals.h"

namespace mayfly {

// Returns the process's exit status: 0 after a drain, 1 when the engine failed, 128 + n after a
// second signal n, which ends the process's wait for its sessions at once.
int ServeUntilStopped(Server* server, StopSignals* signals, double drain_timeout_seconds,
                      const Clock* clock, const Logger* logger);

}  // namespace mayfly
