#include "tests/load/event_loop.h"

#include <utility>

namespace mayfly::load {

void EventLoop::Post(Task task) {
  MutexLock lock(&mu_);
  tasks_.push_back(std::move(task));
  posted_.NotifyOne();
}

bool EventLoop::RunReady() {
  std::vector<Task> ready;
  {
    MutexLock lock(&mu_);
    ready.swap(tasks_);
  }
  while (!timers_.empty() && timers_.begin()->first <= clock_->Now()) {
    ready.push_back(std::move(timers_.begin()->second));
    timers_.erase(timers_.begin());
  }
  for (const Task& task : ready) task();
  return !ready.empty();
}

void EventLoop::RunUntil(const std::function<bool()>& done) {
  while (!done()) {
    if (!RunReady()) WaitForWork();
  }
}

void EventLoop::WaitForWork() {
  MutexLock lock(&mu_);
  if (!tasks_.empty()) return;
  if (timers_.empty()) return posted_.Wait(&mu_);
  const Duration left = timers_.begin()->first - clock_->Now();
  if (left > Duration::zero()) posted_.WaitFor(&mu_, left);
}

}  // namespace mayfly::load
