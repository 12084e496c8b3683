#pragma once

// A few small files that an operator may replace while the server runs. What changed is told by a
// digest of what they hold: files half written, renamed or behind a moved symbolic link need no
// case of their own, and no secret is kept. Owned by whoever uses the files; one thread.

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace mayfly {

using Sha256Digest = std::array<uint8_t, 32>;
Sha256Digest Sha256(absl::string_view bytes);

class WatchedFiles {
 public:
  explicit WatchedFiles(std::vector<std::string> paths) : paths_(std::move(paths)) {}

  // What the files hold, in order, or the first one that cannot be read and why. Nothing if that is
  // as it was at the last call.
  std::optional<absl::StatusOr<std::vector<std::string>>> ReadIfChanged();

 private:
  const std::vector<std::string> paths_;
  std::optional<Sha256Digest> last_;
};

}  // namespace mayfly
