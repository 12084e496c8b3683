#pragma once

// Who waits for a row, and who gets the next one: the tenants take turns, and within a tenant the
// first to come is the first to go. Pure: no clock and no lock of its own. Owned by SessionManager
// and guarded by its mutex.

#include <cstddef>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "engine/base/clock.h"

namespace mayfly {

class AdmissionQueue {
 public:
  // Known by its address alone.
  using Waiter = const void*;

  // A tenant that nobody waited for yet has its turn after all others.
  void Add(Waiter waiter, const std::string& tenant, TimePoint deadline);
  // False when it does not wait.
  bool Remove(Waiter waiter);

  // Takes out the waiter whose turn it is; nothing when nobody waits.
  std::optional<Waiter> TakeNext();
  // Takes out those whose deadline is `now` or has passed.
  std::vector<Waiter> TakeExpired(TimePoint now);

  size_t size() const;
  // The earliest of all; nothing when nobody waits.
  std::optional<TimePoint> next_deadline() const;

 private:
  struct Place {
    Waiter waiter = nullptr;
    TimePoint deadline;
  };
  // One tenant's waiters, never none, in the order in which they came.
  struct Line {
    std::string tenant;
    std::deque<Place> places;
  };

  // Takes out every place that `leaves`.
  template <typename Leaves>
  std::vector<Waiter> TakeIf(Leaves leaves);

  // The tenant whose turn it is comes first.
  std::deque<Line> lines_;
};

}  // namespace mayfly
