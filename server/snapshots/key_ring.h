#pragma once

// The server's keys for snapshots, from a file that operators may replace at any time: the first
// seals, all of them unseal, so that a new key can be put in front of one that is still needed.
// Owned by the vault, used on its thread.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/base/log.h"
#include "server/secrets/crypto.h"
#include "server/secrets/watched_files.h"

namespace mayfly {

struct SealingKey {
  static constexpr size_t kIdBytes = 8;

  // Derived from the key, which it does not betray.
  std::string id;
  SecretKey secret;
};

// One key a line, 64 hex digits; empty lines and lines that start with # count for nothing. An
// error names the line, never its text.
absl::StatusOr<std::vector<SealingKey>> ParseKeys(absl::string_view text);

class KeyRing {
 public:
  // An error names the file.
  static absl::StatusOr<std::unique_ptr<KeyRing>> Load(std::string path, const Logger* logger);

  // Reads the file again if it has changed. One that cannot be used changes nothing; the log says
  // so once.
  void Reload();

  const SealingKey& first() const { return keys_.front(); }
  // Null when there is no such key.
  const SealingKey* Find(absl::string_view id) const;

 private:
  KeyRing(std::string path, const Logger* logger)
      : path_(std::move(path)), file_({path_}), logger_(logger) {}

  const std::string path_;
  WatchedFiles file_;
  const Logger* const logger_;

  // Never empty.
  std::vector<SealingKey> keys_;
};

}  // namespace mayfly
