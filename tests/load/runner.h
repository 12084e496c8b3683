#pragma once

// One run of a scenario: begins sessions when they should begin, ends them when the time is over,
// and returns what was measured. Owned by whoever runs it; Run is called once, and the calling
// thread is the run's loop.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>

#include "engine/base/clock.h"
#include "tests/load/event_loop.h"
#include "tests/load/recorder.h"
#include "tests/load/scenario.h"
#include "tests/load/session_plan.h"
#include "tests/load/stream_actor.h"

namespace mayfly::load {

enum class Phase { kRamp, kWarmup, kSteady, kDrain };

// What a run is doing, for whoever watches.
struct Progress {
  double seconds = 0;
  Phase phase = Phase::kRamp;
  uint64_t open_sessions = 0;
  const Measurements* so_far = nullptr;
};

class Runner {
 public:
  struct Foundation {
    const Clock* clock;
    EventLoop* loop;
    OpenTransport open_transport;
    // Called about once a second; may be empty.
    std::function<void(const Progress&)> on_progress;
  };

  // All outlive the runner.
  Runner(const Scenario* scenario, const Material* material, Foundation foundation);

  Measurements Run();
  const Window& window() const { return window_; }

 private:
  void ScheduleArrivals();
  // Begins session `number`, or counts it as dropped when too many are open.
  void Begin(uint64_t number, TimePoint intended);
  void ArriveAt(TimePoint intended);
  // Closed loop: the client whose session ended begins the next.
  void OnSessionEnd(StreamActor* actor, TimePoint at);
  void StopArrivals();
  void Cut();
  void Tick();
  // Stops arrivals when all that is measured has ended.
  bool Done();
  TimePoint After(double seconds) const;

  const Scenario& scenario_;
  const Material& material_;
  const Foundation foundation_;
  const Window window_;
  Recorder recorder_;
  const StreamActor::World world_;

  std::unordered_map<StreamActor*, std::shared_ptr<StreamActor>> actors_;
  uint64_t next_number_ = 0;
  // Sessions that are still to begin at a time that is known.
  uint64_t arrivals_left_ = 0;
  // No session begins any more.
  bool stopped_ = false;
};

}  // namespace mayfly::load
