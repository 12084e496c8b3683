#pragma once

// Runs `on_expiry` on a thread of its own unless it is destroyed within `seconds`. For calls that
// may never return: a call that is never finished makes grpc::Server::Shutdown wait for ever.

#include <chrono>
#include <functional>
#include <thread>
#include <utility>

#include "engine/base/mutex.h"

namespace mayfly {

class Watchdog {
 public:
  Watchdog(double seconds, std::function<void()> on_expiry)
      : deadline_(std::chrono::steady_clock::now() +
                  std::chrono::duration_cast<std::chrono::steady_clock::duration>(
                      std::chrono::duration<double>(seconds))),
        on_expiry_(std::move(on_expiry)),
        thread_([this] { Watch(); }) {}

  ~Watchdog() {
    {
      MutexLock lock(&mu_);
      disarmed_ = true;
    }
    changed_.NotifyAll();
    thread_.join();
  }

 private:
  void Watch() {
    {
      MutexLock lock(&mu_);
      while (!disarmed_) {
        const auto left = deadline_ - std::chrono::steady_clock::now();
        if (left.count() <= 0) break;
        changed_.WaitFor(&mu_, left);
      }
      if (disarmed_) return;
    }
    on_expiry_();
  }

  const std::chrono::steady_clock::time_point deadline_;
  const std::function<void()> on_expiry_;

  Mutex mu_;
  CondVar changed_;
  bool disarmed_ ABSL_GUARDED_BY(mu_) = false;

  // Last: it uses all of the above.
  std::thread thread_;
};

}  // namespace mayfly
