#pragma once

// What the flags say about snapshots. A plain value.

#include <cstdint>
#include <string>

namespace mayfly {

struct SnapshotOptions {
  // Empty: this server makes no snapshots.
  std::string key_file;
  // A directory or a URL of Redis, which may hold a password; empty: no store.
  std::string store;
  double ttl_seconds = 3600;
  // Of one snapshot, sealed or not.
  uint64_t max_bytes = uint64_t{4} << 30;
};

}  // namespace mayfly
