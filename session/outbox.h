#pragma once

// The ordered, bounded queue of events towards one client. The session puts events in; the RPC's
// reactor takes them out one by one and, after the last, ends the call with the final status.
// Thread-safe; nothing blocks.
//
// What it holds is counted in places: an event takes one, and a large one another for every further
// kPlaceBytes. So places bound memory as well as events.

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>

#include "absl/status/status.h"
#include "engine/base/metric.h"
#include "engine/base/mutex.h"
#include "session/types.h"

namespace mayfly {

class Outbox {
 public:
  static constexpr size_t kPlaceBytes = 4096;

  // What the reader does next.
  struct Item {
    std::optional<SessionEvent> event;
    // Set, with no event, once everything was taken and the session is over.
    std::optional<absl::Status> final_status;
  };

  // `on_ready` is called by Notify, outside the lock and on whichever thread notifies, each time
  // something can be taken and the reader had found nothing before. `held`, if given, counts the
  // events of all outboxes.
  Outbox(size_t capacity, std::function<void()> on_ready, Gauge* held = nullptr);
  ~Outbox();

  // Never refuses: the session asks `room` before it lets its row go on. Calls nothing back, so
  // that the session may put under its own lock; Notify follows once that lock is free.
  void Put(SessionEvent event);
  // No event after this; the reader sees `status` once it has taken all. The first call wins.
  void Finish(absl::Status status);
  // Tells the waiting reader of what was put since.
  void Notify();

  // The next event, the final status, or neither (then on_ready will be called).
  Item Take();
  // Drops what waits and every later event, and never begins a call of on_ready again: the client
  // is gone. A call that another thread has already begun may still be under way.
  void Abandon();
  // Drops what waits: the client has left it here for too long. Calls nothing back.
  void Discard();

  // Places that may still be taken before the client counts as slow; never negative.
  size_t room() const;
  // Events taken so far.
  uint64_t taken() const;

  // Events that wait to be taken.
  size_t depth() const;

  // Called by the Take that brings half of the capacity back after all of it was used, outside the
  // lock. Half, so that a slow reader does not wake its row once an event. Set once, before use.
  void OnRoom(std::function<void()> on_room);

 private:
  size_t Room() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool HasRoomAgain() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Clear() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CountHeld(int64_t events) const;

  const size_t capacity_;
  const std::function<void()> on_ready_;
  Gauge* const held_;
  std::function<void()> on_room_;

  mutable Mutex mu_;
  std::deque<SessionEvent> events_ ABSL_GUARDED_BY(mu_);
  size_t places_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t taken_ ABSL_GUARDED_BY(mu_) = 0;
  std::optional<absl::Status> final_status_ ABSL_GUARDED_BY(mu_);
  bool reader_waits_ ABSL_GUARDED_BY(mu_) = true;
  // The room was used up, and half of it has not come back since.
  bool full_ ABSL_GUARDED_BY(mu_) = false;
  bool abandoned_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace mayfly
