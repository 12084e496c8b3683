#pragma once

// Keeps what an engine delivers to a row and lets a test wait for it. Thread-safe.

#include <chrono>
#include <memory>
#include <optional>
#include <utility>
#include <variant>
#include <vector>

#include "engine/base/mutex.h"
#include "engine/engine.h"
#include "gtest/gtest.h"

namespace mayfly {

class RecordingSink final : public TokenSink {
 public:
  void Offer(EngineEvent event) override {
    MutexLock lock(&mu_);
    events_.push_back(std::move(event));
    arrived_.NotifyAll();
  }

  std::vector<EngineEvent> events() const {
    MutexLock lock(&mu_);
    return events_;
  }

  // Events of one kind for one piece of work, so far.
  template <typename Body>
  std::vector<Body> All(WorkId id = 0) const {
    MutexLock lock(&mu_);
    std::vector<Body> found;
    for (const EngineEvent& event : events_) {
      const Body* body = std::get_if<Body>(&event.body);
      if (body != nullptr && event.work_id == id) found.push_back(*body);
    }
    return found;
  }

  // The `count`-th event of that kind for that work, once it is there. The test fails, and gets an
  // empty one, where it does not come within a time far longer than it can take.
  template <typename Body>
  Body Wait(WorkId id = 0, size_t count = 1) {
    std::optional<Body> body;
    WaitUntil([&]() ABSL_NO_THREAD_SAFETY_ANALYSIS {
      size_t seen = 0;
      for (const EngineEvent& event : events_) {
        const Body* found = std::get_if<Body>(&event.body);
        if (found == nullptr || event.work_id != id || ++seen < count) continue;
        body = *found;
        return true;
      }
      return false;
    });
    if (body) return *std::move(body);
    ADD_FAILURE() << "work " << id << " did not answer as expected; its events have the kinds "
                  << testing::PrintToString(Kinds(id));
    Body nothing;
    return nothing;
  }

 private:
  template <typename Condition>
  void WaitUntil(Condition condition) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    MutexLock lock(&mu_);
    while (!condition() && std::chrono::steady_clock::now() < deadline) {
      arrived_.WaitFor(&mu_, std::chrono::seconds(1));
    }
  }
  std::vector<size_t> Kinds(WorkId id) const {
    std::vector<size_t> kinds;
    for (const EngineEvent& event : events()) {
      if (event.work_id == id) kinds.push_back(event.body.index());
    }
    return kinds;
  }

  mutable Mutex mu_;
  CondVar arrived_;
  std::vector<EngineEvent> events_ ABSL_GUARDED_BY(mu_);
};

}  // namespace mayfly
