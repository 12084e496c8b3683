#include "engine/device/thread_share.h"

#include <algorithm>

#include "engine/device/team.h"

namespace mayfly {
namespace {

int32_t UpdateThreads(const ThreadShareOptions& options) {
  const int32_t wanted = options.update_threads > 0 ? options.update_threads : options.threads / 2;
  return std::clamp(wanted, 1, options.threads);
}

}  // namespace

ThreadShare::ThreadShare(const ThreadShareOptions& options)
    : threads_(options.threads), update_threads_(UpdateThreads(options)), fixed_(options.fixed) {}

void ThreadShare::BeginStep() {
  MutexLock lock(&mu_);
  stepping_ = true;
  UseTeam(training_ && !fixed_ ? std::max(1, threads_ - update_threads_) : threads_);
}

void ThreadShare::EndStep() {
  MutexLock lock(&mu_);
  ++steps_;
  stepped_.NotifyAll();
}

void ThreadShare::Rest() {
  ReleaseTeam();
  MutexLock lock(&mu_);
  stepping_ = false;
  stepped_.NotifyAll();
}

void ThreadShare::SetPressure(bool pressure) {
  MutexLock lock(&mu_);
  pressure_ = pressure;
  if (!pressure) stepped_.NotifyAll();
}

void ThreadShare::BeginTraining() {
  MutexLock lock(&mu_);
  training_ = true;
}

void ThreadShare::EndTraining() {
  ReleaseTeam();
  MutexLock lock(&mu_);
  training_ = false;
}

void ThreadShare::BeforeLayer() {
  MutexLock lock(&mu_);
  if (pressure_ && stepping_) {
    ReleaseTeam();
    training_ = false;  // steps that pass meanwhile have all threads
    const uint64_t enough = steps_ + kStepsPerLayer;
    while (pressure_ && stepping_ && steps_ < enough) stepped_.Wait(&mu_);
    training_ = true;
  }
  UseTeam(stepping_ && !fixed_ ? update_threads_ : threads_);
}

}  // namespace mayfly
