#pragma once

// Where sealed snapshots lie until they are asked for or expire. May be shared by replicas. Owned
// by the vault and called on its thread, which it may hold up for a bounded time.

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace mayfly {

class SnapshotStore {
 public:
  virtual ~SnapshotStore() = default;

  // `key` is made of hex digits. All is stored, or nothing: RESOURCE_EXHAUSTED where there is no
  // room, UNAVAILABLE where the store cannot be reached or written.
  virtual absl::Status Put(const std::string& key, absl::string_view bytes,
                           int64_t expires_unix_seconds) = 0;
  // NOT_FOUND where nothing has that key; RESOURCE_EXHAUSTED where it has more than `max_bytes`.
  virtual absl::StatusOr<std::string> Get(const std::string& key, uint64_t max_bytes) = 0;
  // OK too where nothing has that key.
  virtual absl::Status Remove(const std::string& key) = 0;
};

// What every store answers to a key that it does not have.
inline absl::Status NoSuchSnapshot() { return absl::NotFoundError("no snapshot has this token"); }

inline absl::Status SnapshotTooLarge(uint64_t bytes, uint64_t max_bytes) {
  return absl::ResourceExhaustedError("the snapshot has " + std::to_string(bytes) +
                                      " bytes, the limit is " + std::to_string(max_bytes));
}

}  // namespace mayfly
