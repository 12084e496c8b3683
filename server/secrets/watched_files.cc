#include "server/secrets/watched_files.h"

#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "server/secrets/crypto.h"

namespace mayfly {
namespace {

// Far above any chain of certificates or list of tokens.
constexpr size_t kMaxFileBytes = 4 << 20;

absl::StatusOr<std::string> Read(const std::string& path) {
  errno = 0;
  std::ifstream file(path, std::ios::binary);
  std::string bytes;
  std::array<char, 16384> piece;
  while (file.read(piece.data(), piece.size()) || file.gcount() > 0) {
    bytes.append(piece.data(), static_cast<size_t>(file.gcount()));
    if (bytes.size() <= kMaxFileBytes) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": has more than ", kMaxFileBytes, " bytes, the limit"));
  }
  if (file.eof()) return bytes;
  return absl::InvalidArgumentError(absl::StrCat(path, ": cannot read it: ", std::strerror(errno)));
}

absl::StatusOr<std::vector<std::string>> ReadAll(const std::vector<std::string>& paths) {
  std::vector<std::string> contents;
  for (const std::string& path : paths) {
    MAYFLY_ASSIGN_OR_RETURN(std::string content, Read(path));
    contents.push_back(std::move(content));
  }
  return contents;
}

// Different for any two contents, and for a file that cannot be read and its message.
std::string Fingerprint(const absl::StatusOr<std::vector<std::string>>& contents) {
  if (!contents.ok()) return contents.status().ToString();
  std::string all;
  for (const std::string& content : *contents) absl::StrAppend(&all, content.size(), ":", content);
  return all;
}

}  // namespace

std::optional<absl::StatusOr<std::vector<std::string>>> WatchedFiles::ReadIfChanged() {
  auto contents = ReadAll(paths_);
  std::string digest = Sha256(Fingerprint(contents));
  if (digest == digest_) return std::nullopt;
  digest_ = std::move(digest);
  return contents;
}

}  // namespace mayfly
