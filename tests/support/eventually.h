#pragma once

// Waits for what another thread will do, without a fixed time: returns as soon as it is true.

#include <chrono>
#include <thread>

namespace mayfly {

// False when `condition` is still false after `limit`, far longer than it can take.
template <typename Condition>
bool Eventually(Condition condition, std::chrono::seconds limit = std::chrono::seconds(20)) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

}  // namespace mayfly
