#include "server/snapshots/key_ring.h"

#include <algorithm>
#include <fstream>
#include <optional>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"

namespace mayfly {
namespace {

constexpr size_t kHexDigits = 2 * SecretKey::kBytes;

std::optional<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text;
  char buffer[4096];
  while (file.read(buffer, sizeof(buffer)) || file.gcount() > 0) {
    text.append(buffer, static_cast<size_t>(file.gcount()));
  }
  if (!file.is_open() || file.bad()) return std::nullopt;
  return text;
}

bool IsKey(absl::string_view line) {
  return line.size() == kHexDigits && std::all_of(line.begin(), line.end(), absl::ascii_isxdigit);
}

SealingKey MakeKey(absl::string_view hex_digits) {
  SecretKey secret(absl::HexStringToBytes(hex_digits));
  std::string id = Hkdf(secret, "", "mayfly snapshot key id", SealingKey::kIdBytes);
  return {std::move(id), std::move(secret)};
}

absl::Status CannotRead() { return absl::InvalidArgumentError("cannot read it"); }

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
  const std::optional<std::string> text = ReadFile(path);
  if (!text) return CannotRead();
  std::unique_ptr<KeyRing> ring(new KeyRing(std::move(path), logger));
  MAYFLY_ASSIGN_OR_RETURN(ring->keys_, ParseKeys(*text));
  ring->digest_ = Sha256(*text);
  return ring;
}

void KeyRing::Reload() {
  const std::optional<std::string> text = ReadFile(path_);
  std::string digest = text ? Sha256(*text) : "";
  if (digest == digest_) return;
  digest_ = std::move(digest);
  absl::StatusOr<std::vector<SealingKey>> keys = text ? ParseKeys(*text) : CannotRead();
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
