#pragma once

// One session of a run: plays its plan over a transport, command by command, and tells the recorder
// what a client sees of it. Owned by the runner, which lets it go after `on_end`; lives on the
// loop's thread.
//
// Every latency counts from when its command should have been sent: at the session's intended
// start, when the answer before it had come (not when this client came to see it), or when the
// client had thought for long enough.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "tests/load/event_loop.h"
#include "tests/load/recorder.h"
#include "tests/load/session_plan.h"
#include "tests/load/session_transport.h"
#include "tests/load/slo.h"

namespace mayfly::load {

class StreamActor : public std::enable_shared_from_this<StreamActor> {
 public:
  // What all sessions of a run share; outlives them.
  struct World {
    const Clock* clock;
    EventLoop* loop;
    Recorder* recorder;
    OpenTransport open_transport;
    // Called once, last of all, with the session's end.
    std::function<void(StreamActor*, TimePoint)> on_end;
  };

  StreamActor(const World* world, SessionPlan plan, TimePoint intended_start);

  void Start();
  // The measured time is over: the session ends where its turn does.
  void WindDown();
  // The run is over: the session ends here.
  void Cut();

  // Whether the server gave it a row.
  bool opened() const { return opened_; }

 private:
  // What this client did to end the session.
  enum class Ending { kNotYet, kFinished, kVanished, kFailed, kCut };

  void OnResponse(const v1::SessionResponse& response, TimePoint at);
  void OnEnd(const absl::Status& status, TimePoint at);
  void OnAppended(const v1::Appended& appended, TimePoint at);
  void OnDelta(const v1::Delta& delta, TimePoint at);
  void OnError(const v1::Error& error, TimePoint at);

  // Does what the plan says next; `intended` is when that should happen.
  void Next(TimePoint intended);
  void Do(const SendAction& action, TimePoint intended);
  void Do(const GenerateAction& action, TimePoint intended);
  void Do(const ThinkAction& action, TimePoint intended);
  void Do(const VanishAction&, TimePoint intended);

  // Sends a command whose answer the plan waits for.
  void SendAwaited(v1::SessionRequest request, TimePoint intended);
  void Send(v1::SessionRequest request);
  void ReadOn();
  void Vanish(Ending why);
  // Says goodbye.
  void End(Ending why);

  void BeginTurn(TimePoint intended);
  void EndTurn(TimePoint at, TurnEnd end);
  void LeaveTurn();
  // The turn that the session's end broke off, if it did.
  std::optional<TurnEnd> BrokenTurn(const std::string& how) const;
  bool GeneratesAhead() const;
  std::string HowItEnded(const absl::Status& status) const;

  const World* const world_;
  const SessionPlan plan_;
  const TimePoint intended_start_;
  std::unique_ptr<SessionTransport> transport_;
  bool opened_ = false;
  bool winding_down_ = false;
  Ending ending_ = Ending::kNotYet;
  std::string failure_;

  // The next action of the plan.
  size_t step_ = 0;
  uint64_t last_request_id_ = 0;
  // The command whose answer the plan waits for, and when it should have been sent.
  uint64_t awaited_ = 0;
  TimePoint awaited_since_;

  // Between two turns no command has been sent.
  bool in_turn_ = false;
  Turn turn_;
  // While a generation runs.
  const GenerateAction* generating_ = nullptr;
  TimePoint last_tokens_;
};

}  // namespace mayfly::load
