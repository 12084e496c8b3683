#pragma once

// Snapshots as files of one directory, readable for their owner alone. Each is written under a
// temporary name and renamed once it is on the disk. A file's modification time is the time at
// which it expires; what has expired is removed at start and, at most once a minute, while saving.

#include <memory>
#include <string>

#include "engine/base/log.h"
#include "engine/base/wall_clock.h"
#include "server/snapshots/snapshot_store.h"

namespace mayfly {

class DirectoryStore final : public SnapshotStore {
 public:
  // Makes the directory where it is missing. The pointers outlive the store.
  static absl::StatusOr<std::unique_ptr<DirectoryStore>> Open(std::string directory,
                                                              const WallClock* clock,
                                                              const Logger* logger);

  absl::Status Put(const std::string& key, absl::string_view bytes,
                   int64_t expires_unix_seconds) override;
  absl::StatusOr<std::string> Get(const std::string& key, uint64_t max_bytes) override;
  absl::Status Remove(const std::string& key) override;

 private:
  DirectoryStore(std::string directory, const WallClock* clock, const Logger* logger);

  std::string PathOf(const std::string& key) const;
  absl::Status Write(const std::string& key, absl::string_view bytes, int64_t expires) const;
  void RemoveExpired();

  const std::string directory_;
  const WallClock* const clock_;
  const Logger* const logger_;
  int64_t last_removal_ = 0;
};

}  // namespace mayfly
