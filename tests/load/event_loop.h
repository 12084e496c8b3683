#pragma once

// One thread's work: tasks that others post, and tasks for a time. All of a run's sessions live on
// it, so that none of them needs a lock; what happened when is taken down by whoever posts, so that
// a busy loop delays no measurement. Owned by the runner; Post may be called by any thread, the
// rest by the loop's own.

#include <functional>
#include <map>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/mutex.h"

namespace mayfly::load {

class EventLoop {
 public:
  using Task = std::function<void()>;

  // The clock outlives the loop.
  explicit EventLoop(const Clock* clock) : clock_(clock) {}

  void Post(Task task);
  void At(TimePoint when, Task task) { timers_.emplace(when, std::move(task)); }

  // Runs what is posted and due now; false when that was nothing.
  bool RunReady();
  // Runs everything, sleeping in between, until `done`.
  void RunUntil(const std::function<bool()>& done);

 private:
  void WaitForWork();

  const Clock* const clock_;
  std::multimap<TimePoint, Task> timers_;

  Mutex mu_;
  CondVar posted_;
  std::vector<Task> tasks_ ABSL_GUARDED_BY(mu_);
};

}  // namespace mayfly::load
