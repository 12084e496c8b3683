#pragma once

// A few small files that an operator may replace while the server runs. What changed is told by a
// digest of what they hold: files half written, renamed or behind a moved symbolic link need no
// case of their own, and no secret is kept. Owned by whoever uses the files; one thread.

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace mayfly {

class WatchedFiles {
 public:
  explicit WatchedFiles(std::vector<std::string> paths) : paths_(std::move(paths)) {}

  // What the files hold, in order, or the first one that cannot be read and why. Nothing if that is
  // as it was at the last call.
  std::optional<absl::StatusOr<std::vector<std::string>>> ReadIfChanged();

 private:
  const std::vector<std::string> paths_;
  // Of the contents at the last call; empty before the first.
  std::string digest_;
};

}  // namespace mayfly
