#include "tests/load/stream_actor.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"

namespace mayfly::load {
namespace {

Duration ToDuration(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

}  // namespace

StreamActor::StreamActor(const World* world, SessionPlan plan, TimePoint intended_start)
    : world_(world), plan_(std::move(plan)), intended_start_(intended_start) {}

void StreamActor::Start() {
  world_->recorder->SessionStarted(intended_start_, world_->clock->Now());
  // A read that is still on its way when the session has gone finds nobody.
  const std::weak_ptr<StreamActor> weak = weak_from_this();
  transport_ = world_->open_transport(plan_.deadline_seconds,
                                      {[weak](const v1::SessionResponse& response, TimePoint at) {
                                         if (const auto self = weak.lock())
                                           self->OnResponse(response, at);
                                       },
                                       [weak](const absl::Status& status, TimePoint at) {
                                         if (const auto self = weak.lock()) self->OnEnd(status, at);
                                       }});
  BeginTurn(intended_start_);
  v1::SessionRequest request;
  *request.mutable_open() = plan_.open;
  SendAwaited(std::move(request), intended_start_);
  transport_->ReadNext();
}

void StreamActor::WindDown() {
  winding_down_ = true;
  if (!in_turn_) End(Ending::kFinished);
}

void StreamActor::Cut() {
  if (ending_ == Ending::kNotYet || ending_ == Ending::kFinished) Vanish(Ending::kCut);
}

// ---- What comes --------------------------------------------------------------------------------

void StreamActor::OnResponse(const v1::SessionResponse& response, TimePoint at) {
  if (response.has_update()) {
    world_->recorder->Updated(at, response.update());
  } else if (response.request_id() == awaited_ && ending_ == Ending::kNotYet) {
    if (response.has_error()) {
      OnError(response.error(), at);
    } else if (response.has_appended()) {
      OnAppended(response.appended(), at);
    } else if (response.has_delta()) {
      OnDelta(response.delta(), at);
    } else if (response.has_generated()) {
      EndTurn(at, response.generated().finish_reason() == v1::FINISH_REASON_CANCELLED
                      ? TurnEnd::kByScript
                      : TurnEnd::kComplete);
      Next(at);
    } else {
      if (response.has_opened()) {
        opened_ = true;
        world_->recorder->Opened(awaited_since_, at);
      }
      Next(at);
    }
  }
  ReadOn();
}

void StreamActor::OnAppended(const v1::Appended& appended, TimePoint at) {
  if (!appended.done()) return;
  world_->recorder->Appended(awaited_since_, at, appended.tokens());
  Next(at);
}

void StreamActor::OnDelta(const v1::Delta& delta, TimePoint at) {
  if (delta.tokens().empty()) return;
  world_->recorder->TokensCame(at, static_cast<uint64_t>(delta.tokens_size()));
  if (turn_.ttft_seconds) {
    turn_.gaps.push_back(Seconds(at - last_tokens_));
  } else {
    turn_.ttft_seconds = Seconds(at - turn_.intended);
  }
  last_tokens_ = at;
  const uint64_t before = std::exchange(turn_.tokens, turn_.tokens + delta.tokens_size());
  const auto reached = [&](const std::optional<uint64_t>& count) {
    return count && before < *count && *count <= turn_.tokens;
  };
  if (reached(generating_->vanish_after_tokens)) return Vanish(Ending::kVanished);
  if (!reached(generating_->cancel_after_tokens)) return;
  v1::SessionRequest request;
  request.mutable_cancel()->set_request_id(awaited_);
  Send(std::move(request));
}

void StreamActor::OnError(const v1::Error& error, TimePoint at) {
  if (GeneratesAhead()) EndTurn(at, TurnEnd::kFailed);
  failure_ = absl::StatusCodeToString(static_cast<absl::StatusCode>(error.code()));
  End(Ending::kFailed);
}

void StreamActor::OnEnd(const absl::Status& status, TimePoint at) {
  const std::string how = HowItEnded(status);
  if (const std::optional<TurnEnd> broken = BrokenTurn(how)) EndTurn(at, *broken);
  LeaveTurn();
  world_->recorder->SessionEnded(how);
  world_->on_end(this, at);
}

std::string StreamActor::HowItEnded(const absl::Status& status) const {
  switch (ending_) {
    case Ending::kVanished: return "vanished";
    case Ending::kCut: return "cut";
    case Ending::kFailed: return absl::StrCat("failed: ", failure_);
    case Ending::kFinished:
      if (status.ok()) return "finished";
      break;
    case Ending::kNotYet: break;
  }
  if (absl::IsDeadlineExceeded(status) && plan_.deadline_seconds) return "deadline";
  if (absl::IsResourceExhausted(status) && !opened_) return "refused";
  return absl::StrCat(
      "failed: ", status.ok() ? "ended by the server" : absl::StatusCodeToString(status.code()));
}

std::optional<TurnEnd> StreamActor::BrokenTurn(const std::string& how) const {
  if (!in_turn_ || !GeneratesAhead()) return std::nullopt;
  if (how == "cut") return TurnEnd::kCut;
  return how == "vanished" || how == "deadline" ? TurnEnd::kByScript : TurnEnd::kFailed;
}

// ---- What is done ------------------------------------------------------------------------------

void StreamActor::Next(TimePoint intended) {
  if (ending_ != Ending::kNotYet) return;
  const bool turns_are_over = winding_down_ && !in_turn_;
  if (turns_are_over || step_ == plan_.actions.size()) return End(Ending::kFinished);
  std::visit([&](const auto& action) { Do(action, intended); }, plan_.actions[step_++]);
}

void StreamActor::Do(const SendAction& action, TimePoint intended) {
  BeginTurn(intended);
  SendAwaited(action.request, intended);
}

void StreamActor::Do(const GenerateAction& action, TimePoint intended) {
  BeginTurn(intended);
  turn_.slow_reader = action.read_pause_seconds > 0;
  generating_ = &action;
  v1::SessionRequest request;
  *request.mutable_generate() = action.generate;
  SendAwaited(std::move(request), intended);
}

void StreamActor::Do(const ThinkAction& action, TimePoint intended) {
  // What was sent before counts for nobody's wait.
  LeaveTurn();
  awaited_ = 0;
  const TimePoint due = intended + ToDuration(action.seconds);
  world_->loop->At(due, [weak = weak_from_this(), due] {
    if (const auto self = weak.lock()) self->Next(due);
  });
  if (winding_down_) End(Ending::kFinished);
}

void StreamActor::Do(const VanishAction&, TimePoint) { Vanish(Ending::kVanished); }

void StreamActor::SendAwaited(v1::SessionRequest request, TimePoint intended) {
  awaited_since_ = intended;
  awaited_ = last_request_id_ + 1;
  Send(std::move(request));
}

void StreamActor::Send(v1::SessionRequest request) {
  request.set_request_id(++last_request_id_);
  transport_->Send(std::move(request));
}

void StreamActor::ReadOn() {
  const double pause = generating_ == nullptr ? 0 : generating_->read_pause_seconds;
  if (pause == 0) return transport_->ReadNext();
  world_->loop->At(world_->clock->Now() + ToDuration(pause), [weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->transport_->ReadNext();
  });
}

void StreamActor::Vanish(Ending why) {
  ending_ = why;
  transport_->Vanish();
}

void StreamActor::End(Ending why) {
  if (ending_ != Ending::kNotYet) return;
  ending_ = why;
  generating_ = nullptr;
  if (plan_.half_close) return transport_->HalfClose();
  v1::SessionRequest request;
  request.mutable_close();
  Send(std::move(request));
}

// ---- Turns -------------------------------------------------------------------------------------

void StreamActor::BeginTurn(TimePoint intended) {
  if (std::exchange(in_turn_, true)) return;
  turn_ = Turn();
  turn_.intended = intended;
  world_->recorder->TurnBegan(intended);
}

void StreamActor::EndTurn(TimePoint at, TurnEnd end) {
  turn_.ended = at;
  turn_.end = end;
  world_->recorder->TurnEnded(turn_);
  generating_ = nullptr;
  LeaveTurn();
}

void StreamActor::LeaveTurn() {
  if (std::exchange(in_turn_, false)) world_->recorder->TurnLeft(turn_.intended);
}

bool StreamActor::GeneratesAhead() const {
  if (generating_ != nullptr) return true;
  const auto begin = plan_.actions.begin() + static_cast<std::ptrdiff_t>(step_);
  return std::any_of(begin, plan_.actions.end(), [](const Action& action) {
    return std::holds_alternative<GenerateAction>(action);
  });
}

}  // namespace mayfly::load
