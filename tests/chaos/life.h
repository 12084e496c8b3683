#pragma once

// One client's stream from its first byte to its last: what it asks for, how it reads and how it
// ends are drawn from a seed. Runs on the calling thread and checks nothing but that it ends.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "engine/base/mutex.h"
#include "grpcpp/channel.h"

namespace mayfly {

// What lives leave for later ones: tokens and snapshots to resume from. Thread-safe.
class Legacy {
 public:
  void AddToken(std::string token);
  void AddSnapshot(std::string sealed);
  // Empty when there is none.
  std::string AnyToken(uint64_t draw) const;
  std::string AnySnapshot(uint64_t draw) const;

  // Lives that went on where another had been.
  std::atomic<uint64_t> resumed{0};

 private:
  // As many as are worth remembering.
  static constexpr size_t kMost = 16;

  mutable Mutex mu_;
  std::vector<std::string> tokens_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> snapshots_ ABSL_GUARDED_BY(mu_);
};

struct World {
  std::string address;
  // Shared by lives that do not end with their connection.
  std::shared_ptr<grpc::Channel> channel;
  Legacy* legacy = nullptr;
  // Waits until so many of the server's seconds have passed.
  std::function<void(double seconds)> pass;
};

// After these the server has ended whoever neither reads nor says anything.
inline constexpr double kSilenceSeconds = 60;

enum class WayOut {
  kHalfClose,
  kClose,
  kCancel,
  kDeadline,
  kDisconnect,
  kOperator,
  // Neither reads nor says anything any more, until the server has had enough.
  kSilence,
};
inline constexpr int kWaysOut = 7;

// Returns the way out that was drawn.
WayOut Live(const World& world, uint64_t seed);

}  // namespace mayfly
