#include "server/snapshots/key_ring.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"

namespace mayfly {
namespace {

constexpr size_t kHexDigits = 2 * SecretKey::kBytes;

bool IsKey(absl::string_view line) {
  return line.size() == kHexDigits && std::all_of(line.begin(), line.end(), absl::ascii_isxdigit);
}

SealingKey MakeKey(absl::string_view hex_digits) {
  SecretKey secret(absl::HexStringToBytes(hex_digits));
  std::string id = Hkdf(secret, "", "mayfly snapshot key id", SealingKey::kIdBytes);
  return {std::move(id), std::move(secret)};
}

absl::StatusOr<std::vector<SealingKey>> ParseFile(
    const std::string& path, const absl::StatusOr<std::vector<std::string>>& contents) {
  if (!contents.ok()) return contents.status();
  auto keys = ParseKeys(contents->front());
  if (keys.ok()) return keys;
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", keys.status().message()));
}

}  // namespace

absl::StatusOr<std::vector<SealingKey>> ParseKeys(absl::string_view text) {
  std::vector<SealingKey> keys;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line.front() == '#') continue;
    if (!IsKey(line)) {
      return absl::InvalidArgumentError(
          absl::StrCat("line ", number, ": want ", kHexDigits, " hex digits"));
    }
    keys.push_back(MakeKey(line));
  }
  if (keys.empty()) return absl::InvalidArgumentError("want at least one key");
  return keys;
}

absl::StatusOr<std::unique_ptr<KeyRing>> KeyRing::Load(std::string path, const Logger* logger) {
  std::unique_ptr<KeyRing> ring(new KeyRing(std::move(path), logger));
  MAYFLY_ASSIGN_OR_RETURN(ring->keys_, ParseFile(ring->path_, *ring->file_.ReadIfChanged()));
  return ring;
}

void KeyRing::Reload() {
  const auto contents = file_.ReadIfChanged();
  if (!contents) return;
  absl::StatusOr<std::vector<SealingKey>> keys = ParseFile(path_, *contents);
  if (!keys.ok()) {
    logger_->Warning("snapshot_keys_not_reloaded", {{"error", keys.status().message()}});
    return;
  }
  keys_ = *std::move(keys);
  logger_->Info("snapshot_keys_reloaded", {{"keys", keys_.size()}});
}

const SealingKey* KeyRing::Find(absl::string_view id) const {
  for (const SealingKey& key : keys_) {
    if (key.id == id) return &key;
  }
  return nullptr;
}

}  // namespace mayfly
