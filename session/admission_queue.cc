#include "session/admission_queue.h"

#include <algorithm>
#include <utility>

namespace mayfly {

void AdmissionQueue::Add(Waiter waiter, const std::string& tenant, TimePoint deadline) {
  auto line = std::find_if(lines_.begin(), lines_.end(),
                           [&](const Line& candidate) { return candidate.tenant == tenant; });
  if (line == lines_.end()) line = lines_.insert(lines_.end(), {tenant, {}});
  line->places.push_back({waiter, deadline});
}

bool AdmissionQueue::Remove(Waiter waiter) {
  return !TakeIf([waiter](const Place& place) { return place.waiter == waiter; }).empty();
}

std::optional<AdmissionQueue::Waiter> AdmissionQueue::TakeNext() {
  if (lines_.empty()) return std::nullopt;
  Line line = std::move(lines_.front());
  lines_.pop_front();
  const Waiter next = line.places.front().waiter;
  line.places.pop_front();
  if (!line.places.empty()) lines_.push_back(std::move(line));
  return next;
}

std::vector<AdmissionQueue::Waiter> AdmissionQueue::TakeExpired(TimePoint now) {
  return TakeIf([now](const Place& place) { return place.deadline <= now; });
}

size_t AdmissionQueue::size() const {
  size_t size = 0;
  for (const Line& line : lines_) size += line.places.size();
  return size;
}

std::optional<TimePoint> AdmissionQueue::next_deadline() const {
  std::optional<TimePoint> next;
  for (const Line& line : lines_) {
    for (const Place& place : line.places) {
      if (!next || place.deadline < *next) next = place.deadline;
    }
  }
  return next;
}

template <typename Leaves>
std::vector<AdmissionQueue::Waiter> AdmissionQueue::TakeIf(Leaves leaves) {
  std::vector<Waiter> taken;
  for (Line& line : lines_) {
    for (const Place& place : line.places) {
      if (leaves(place)) taken.push_back(place.waiter);
    }
    std::erase_if(line.places, leaves);
  }
  std::erase_if(lines_, [](const Line& line) { return line.places.empty(); });
  return taken;
}

}  // namespace mayfly
