#pragma once

// Holds another thread at a place of the test's choosing, so that "in the middle of" is an order
// and not a matter of luck. Used once; thread-safe.

#include <chrono>

#include "engine/base/mutex.h"

namespace mayfly {

class Gate {
 public:
  // The held thread: announces itself, and goes on once the gate is open. Later calls pass.
  void Pass() {
    MutexLock lock(&mu_);
    arrived_ = true;
    changed_.NotifyAll();
    WaitFor(open_);
  }

  // The test: false when nobody came within a time far longer than it can take.
  bool WaitForArrival() {
    MutexLock lock(&mu_);
    WaitFor(arrived_);
    return arrived_;
  }
  void Open() {
    MutexLock lock(&mu_);
    open_ = true;
    changed_.NotifyAll();
  }

 private:
  void WaitFor(const bool& condition) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (!condition && std::chrono::steady_clock::now() < deadline) {
      changed_.WaitFor(&mu_, std::chrono::seconds(1));
    }
  }

  Mutex mu_;
  CondVar changed_;
  bool arrived_ ABSL_GUARDED_BY(mu_) = false;
  bool open_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace mayfly
