#include "session/outbox.h"

#include <utility>

#include "engine/base/log.h"

namespace mayfly {

Outbox::Outbox(size_t capacity, std::function<void()> on_ready)
    : capacity_(capacity), on_ready_(std::move(on_ready)) {
  MAYFLY_CHECK(capacity_ > 0);
}

void Outbox::Put(SessionEvent event) {
  MutexLock lock(&mu_);
  if (abandoned_ || final_status_) return;
  events_.push_back(std::move(event));
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
  events_.clear();
}

size_t Outbox::room() const {
  MutexLock lock(&mu_);
  return Room();
}

size_t Outbox::depth() const {
  MutexLock lock(&mu_);
  return events_.size();
}

void Outbox::OnRoom(std::function<void()> on_room) { on_room_ = std::move(on_room); }

size_t Outbox::Room() const { return events_.size() < capacity_ ? capacity_ - events_.size() : 0; }

bool Outbox::HasRoomAgain() {
  if (!full_ || 2 * Room() < capacity_) return false;
  full_ = false;
  return true;
}

}  // namespace mayfly
