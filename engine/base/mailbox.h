#pragma once

// A queue from any number of threads to one owner thread. Ownership of a message moves with it.
// Messages of one sender arrive in the order in which they were sent.

#include <cstddef>
#include <deque>
#include <utility>

#include "engine/base/mutex.h"

namespace mayfly {

template <typename Message>
class Mailbox {
 public:
  // A mailbox that refuses messages once `capacity` of them wait.
  explicit Mailbox(size_t capacity) : capacity_(capacity) {}

  // Returns false, and leaves the message unsent, when the mailbox is full or closed. Any thread.
  [[nodiscard]] bool Post(Message message) {
    MutexLock lock(&mu_);
    if (closed_ || messages_.size() >= capacity_) return false;
    messages_.push_back(std::move(message));
    arrived_.NotifyOne();
    return true;
  }

  // Sends past the capacity: for messages that give something back and so must never be refused.
  // Lost only when the mailbox is closed. Any thread.
  void PostUnbounded(Message message) {
    MutexLock lock(&mu_);
    if (closed_) return;
    messages_.push_back(std::move(message));
    arrived_.NotifyOne();
  }

  // Everything that waits, oldest first; empty when nothing does. Owner thread.
  std::deque<Message> TakeAll() {
    MutexLock lock(&mu_);
    return std::exchange(messages_, {});
  }

  // Waits until something arrives or the mailbox is closed, then takes all. Owner thread.
  std::deque<Message> WaitAndTakeAll() {
    MutexLock lock(&mu_);
    while (messages_.empty() && !closed_) arrived_.Wait(&mu_);
    return std::exchange(messages_, {});
  }

  // No message is taken any more; what waits can still be taken. Any thread.
  void Close() {
    MutexLock lock(&mu_);
    closed_ = true;
    arrived_.NotifyAll();
  }

  bool closed() const {
    MutexLock lock(&mu_);
    return closed_;
  }

 private:
  const size_t capacity_;

  mutable Mutex mu_;
  CondVar arrived_;
  std::deque<Message> messages_ ABSL_GUARDED_BY(mu_);
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace mayfly
