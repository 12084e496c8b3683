#include "tests/load/runner.h"

#include <utility>
#include <vector>

#include "tests/load/arrivals.h"

namespace mayfly::load {
namespace {

Duration ToDuration(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

Window MakeWindow(const Phases& phases, TimePoint begin) {
  return {begin, begin + ToDuration(phases.measured_from()),
          begin + ToDuration(phases.measured_to())};
}

Phase PhaseAt(const Phases& phases, double seconds) {
  if (seconds < phases.ramp_seconds) return Phase::kRamp;
  if (seconds < phases.measured_from()) return Phase::kWarmup;
  return seconds < phases.measured_to() ? Phase::kSteady : Phase::kDrain;
}

}  // namespace

Runner::Runner(const Scenario* scenario, const Material* material, Foundation foundation)
    : scenario_(*scenario),
      material_(*material),
      foundation_(std::move(foundation)),
      window_(MakeWindow(scenario->phases, foundation_.clock->Now())),
      recorder_(window_, scenario->slo),
      world_{foundation_.clock, foundation_.loop, &recorder_, foundation_.open_transport,
             [this](StreamActor* actor, TimePoint at) { OnSessionEnd(actor, at); }} {}

Measurements Runner::Run() {
  ScheduleArrivals();
  const Phases& phases = scenario_.phases;
  // Wakes the loop, which then looks whether it is done.
  foundation_.loop->At(window_.to, [] {});
  foundation_.loop->At(After(phases.measured_to() + phases.drain_seconds), [this] { Cut(); });
  Tick();
  foundation_.loop->RunUntil([this] { return Done(); });
  return recorder_.Result(foundation_.clock->Now());
}

bool Runner::Done() {
  if (!stopped_ && recorder_.open_turns() == 0 && foundation_.clock->Now() >= window_.to) {
    StopArrivals();
  }
  return actors_.empty() && (stopped_ || arrivals_left_ == 0);
}

TimePoint Runner::After(double seconds) const { return window_.begin + ToDuration(seconds); }

void Runner::ScheduleArrivals() {
  const Phases& phases = scenario_.phases;
  const std::vector<double> times =
      scenario_.arrivals.open_loop()
          ? PoissonArrivals({scenario_.arrivals.sessions_per_second, phases.ramp_seconds,
                             phases.measured_to() + phases.drain_seconds, scenario_.max_sessions,
                             scenario_.seed})
          : ClosedLoopStarts(std::min(scenario_.arrivals.sessions, scenario_.max_sessions),
                             phases.ramp_seconds);
  for (const double time : times) ArriveAt(After(time));
}

void Runner::Begin(uint64_t number, TimePoint intended) {
  if (actors_.size() >= scenario_.max_open) {
    recorder_.SessionEnded("dropped");
    Turn never;
    never.intended = intended;
    never.ended = intended;
    never.end = TurnEnd::kFailed;
    return recorder_.TurnEnded(never);
  }
  const auto actor =
      std::make_shared<StreamActor>(&world_, PlanSession(scenario_, material_, number), intended);
  actors_[actor.get()] = actor;
  actor->Start();
}

void Runner::ArriveAt(TimePoint intended) {
  ++arrivals_left_;
  foundation_.loop->At(intended, [this, number = next_number_++, intended] {
    if (stopped_) return;
    --arrivals_left_;
    Begin(number, intended);
  });
}

void Runner::OnSessionEnd(StreamActor* actor, TimePoint at) {
  // A client that got no session tries again later, not at once and forever.
  const TimePoint next = actor->opened() ? at : at + std::chrono::seconds(1);
  actors_.erase(actor);
  const bool closed_loop = !scenario_.arrivals.open_loop();
  if (closed_loop && !stopped_ && next_number_ < scenario_.max_sessions) ArriveAt(next);
}

void Runner::StopArrivals() {
  stopped_ = true;
  for (const auto& [actor, owner] : actors_) actor->WindDown();
}

void Runner::Cut() {
  stopped_ = true;
  for (const auto& [actor, owner] : actors_) actor->Cut();
}

void Runner::Tick() {
  const TimePoint now = foundation_.clock->Now();
  recorder_.Tick(now, actors_.size());
  if (foundation_.on_progress) {
    const double seconds = Seconds(now - window_.begin);
    foundation_.on_progress(
        {seconds, PhaseAt(scenario_.phases, seconds), actors_.size(), &recorder_.so_far()});
  }
  foundation_.loop->At(now + std::chrono::seconds(1), [this] { Tick(); });
}

}  // namespace mayfly::load
