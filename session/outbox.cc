#include "session/outbox.h"

#include <utility>

#include "engine/base/log.h"

namespace mayfly {
namespace {

// What an event holds beside itself. Most kinds hold next to nothing.
template <typename Body>
size_t ExtraBytes(const Body&) {
  return 0;
}

size_t ExtraBytes(const ErrorEvent& event) { return event.status.message().size(); }

size_t ExtraBytes(const AppendedEvent& event) {
  return (event.token_logprobs.size() + event.base_token_logprobs.size()) * sizeof(float);
}

size_t ExtraBytes(const DeltaEvent& event) {
  size_t bytes = event.delta.text.size() + event.delta.tokens.size() * sizeof(GeneratedToken);
  for (const GeneratedToken& token : event.delta.tokens) {
    for (const TokenAlternative& alternative : token.top) {
      bytes += sizeof(alternative) + alternative.text.size();
    }
  }
  return bytes;
}

size_t ExtraBytes(const ExportedEvent& event) { return event.data.size(); }

size_t PlacesOf(const SessionEvent& event) {
  const size_t extra = std::visit([](const auto& body) { return ExtraBytes(body); }, event.body);
  return 1 + extra / Outbox::kPlaceBytes;
}

}  // namespace

Outbox::Outbox(size_t capacity, std::function<void()> on_ready, Gauge* held)
    : capacity_(capacity), on_ready_(std::move(on_ready)), held_(held) {
  MAYFLY_CHECK(capacity_ > 0);
}

Outbox::~Outbox() {
  MutexLock lock(&mu_);
  Clear();
}

void Outbox::Put(SessionEvent event) {
  MutexLock lock(&mu_);
  if (abandoned_ || final_status_) return;
  places_ += PlacesOf(event);
  events_.push_back(std::move(event));
  CountHeld(1);
  if (Room() == 0) full_ = true;
}

void Outbox::Finish(absl::Status status) {
  MutexLock lock(&mu_);
  if (!final_status_) final_status_ = std::move(status);
}

void Outbox::Notify() {
  {
    MutexLock lock(&mu_);
    if (abandoned_ || !reader_waits_ || (events_.empty() && !final_status_)) return;
    reader_waits_ = false;
  }
  if (on_ready_) on_ready_();
}

Outbox::Item Outbox::Take() {
  Item item;
  bool has_room_again = false;
  {
    MutexLock lock(&mu_);
    if (!events_.empty()) {
      item.event = std::move(events_.front());
      events_.pop_front();
      places_ -= PlacesOf(*item.event);
      ++taken_;
      CountHeld(-1);
      has_room_again = HasRoomAgain();
    } else if (final_status_ && !abandoned_) {
      item.final_status = final_status_;
    } else {
      reader_waits_ = true;
    }
  }
  if (has_room_again && on_room_) on_room_();
  return item;
}

void Outbox::Abandon() {
  MutexLock lock(&mu_);
  abandoned_ = true;
  Clear();
}

void Outbox::Discard() {
  MutexLock lock(&mu_);
  Clear();
}

size_t Outbox::room() const {
  MutexLock lock(&mu_);
  return Room();
}

uint64_t Outbox::taken() const {
  MutexLock lock(&mu_);
  return taken_;
}

size_t Outbox::depth() const {
  MutexLock lock(&mu_);
  return events_.size();
}

void Outbox::OnRoom(std::function<void()> on_room) { on_room_ = std::move(on_room); }

size_t Outbox::Room() const { return places_ < capacity_ ? capacity_ - places_ : 0; }

bool Outbox::HasRoomAgain() {
  if (!full_ || 2 * Room() < capacity_) return false;
  full_ = false;
  return true;
}

void Outbox::Clear() {
  CountHeld(-static_cast<int64_t>(events_.size()));
  events_.clear();
  places_ = 0;
}

void Outbox::CountHeld(int64_t events) const {
  if (held_ != nullptr) held_->Add(static_cast<double>(events));
}

}  // namespace mayfly
