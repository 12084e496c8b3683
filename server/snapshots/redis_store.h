#pragma once

// Snapshots in one Redis server (no cluster), through hiredis. Redis itself drops what has expired.
// Each call has a connection of its own, so that a server which was restarted is found again and
// none is held while nothing is stored. A snapshot `key` is
//
//   mayfly:snapshot:KEY        the number of parts and of bytes, written last
//   mayfly:snapshot:KEY:N      part N
//
// in parts, since Redis takes at most 512 MB a value.

#include <memory>
#include <string>

#include "engine/base/wall_clock.h"
#include "server/snapshots/redis_address.h"
#include "server/snapshots/snapshot_store.h"

namespace mayfly {

class RedisStore final : public SnapshotStore {
 public:
  struct Options {
    RedisAddress address;
    // Longest wait for a connection, and for each time that bytes are sent or received.
    double timeout_seconds = 5;
    size_t part_bytes = 32 << 20;
  };

  // The clock outlives the store.
  RedisStore(Options options, const WallClock* clock);

  absl::Status Put(const std::string& key, absl::string_view bytes,
                   int64_t expires_unix_seconds) override;
  absl::StatusOr<std::string> Get(const std::string& key, uint64_t max_bytes) override;
  absl::Status Remove(const std::string& key) override;

 private:
  const Options options_;
  const WallClock* const clock_;
};

}  // namespace mayfly
