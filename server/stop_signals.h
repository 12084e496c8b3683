#pragma once

// SIGTERM and SIGINT as something to wait for. Made by main before any thread starts, so that every
// thread inherits the block; used by the main thread.

#include <csignal>

namespace mayfly {

class StopSignals {
 public:
  // Blocks the signals from now on. A peer that hangs up must not end the process: SIGPIPE is
  // ignored.
  StopSignals();

  // Waits for a signal; returns its number, or 0 when `seconds` passed without one.
  int WaitFor(double seconds);

 private:
  sigset_t set_;
};

}  // namespace mayfly
