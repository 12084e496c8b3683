#pragma once

// Calls that a lock's holder wants made once the lock is free, made in order and by one thread at a
// time. Session adds its calls of the engine under its own lock and runs them outside. Thread-safe.

#include <deque>
#include <functional>
#include <utility>

#include "engine/base/mutex.h"

namespace mayfly {

class CallQueue {
 public:
  void Add(std::function<void()> call) {
    MutexLock lock(&mu_);
    calls_.push_back(std::move(call));
  }

  // Makes the calls that wait, and those that are added meanwhile. Leaves them to the thread that
  // is already doing so, if there is one; it may be this one, further up its stack.
  void Run() {
    mu_.Lock();
    if (!running_) {
      running_ = true;
      while (!calls_.empty()) {
        const std::function<void()> call = std::move(calls_.front());
        calls_.pop_front();
        mu_.Unlock();
        call();
        mu_.Lock();
      }
      running_ = false;
    }
    mu_.Unlock();
  }

 private:
  Mutex mu_;
  std::deque<std::function<void()>> calls_ ABSL_GUARDED_BY(mu_);
  bool running_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace mayfly
