#pragma once

// What Ctrl-C means: the first one cancels what the command is doing, the next one ends the
// process.

#include <atomic>
#include <functional>
#include <thread>

#include "engine/base/mutex.h"

namespace mayfly::cli {

// Hands an interrupt to whoever can cancel something. Thread-safe; outlives its scopes.
class Interrupts {
 public:
  // While it lives, the first interrupt calls `cancel`, on the thread that raised it, and every
  // further one ends the process. One scope at a time. The destructor waits for a `cancel` that
  // runs.
  class Scope {
   public:
    Scope(Interrupts& interrupts, std::function<void()> cancel);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

    bool interrupted() const { return interrupted_; }

   private:
    Interrupts& interrupts_;
    std::atomic<bool> interrupted_ = false;
  };

  explicit Interrupts(std::function<void()> end_process);

  void Raise();

 private:
  const std::function<void()> end_process_;

  Mutex mu_;
  std::function<void()> cancel_ ABSL_GUARDED_BY(mu_);
};

// Turns SIGINT into Interrupts::Raise while it lives. Created by main before any other thread,
// since threads inherit the mask that keeps the signal for the watcher.
class SignalWatcher {
 public:
  explicit SignalWatcher(Interrupts& interrupts);
  ~SignalWatcher();
  SignalWatcher(const SignalWatcher&) = delete;
  SignalWatcher& operator=(const SignalWatcher&) = delete;

 private:
  std::thread thread_;
};

}  // namespace mayfly::cli
