#pragma once

// The few operations of OpenSSL that snapshots need, over plain strings of bytes. Any thread.
// OpenSSL itself fails only for lack of memory or through a mistake of ours; then the process ends.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace mayfly {

// 256 bits that nobody may see: wiped when it goes.
class SecretKey {
 public:
  static constexpr size_t kBytes = 32;

  // `bytes` has kBytes.
  explicit SecretKey(absl::string_view bytes);
  SecretKey(const SecretKey&) = default;
  SecretKey& operator=(const SecretKey&) = default;
  ~SecretKey();

  const uint8_t* data() const { return bytes_.data(); }

 private:
  std::array<uint8_t, kBytes> bytes_;
};

std::string RandomBytes(size_t count);
// 32 bytes.
std::string Sha256(absl::string_view data);
// HKDF-SHA256 (RFC 5869).
std::string Hkdf(const SecretKey& key, absl::string_view salt, absl::string_view info,
                 size_t bytes);

// AES-256-GCM. A nonce must never be used twice under one key.
inline constexpr size_t kNonceBytes = 12;
inline constexpr size_t kTagBytes = 16;

// Appends the encrypted `plain` and its tag to `out`. `associated` is authenticated with it.
void AppendEncrypted(const SecretKey& key, absl::string_view nonce, absl::string_view associated,
                     absl::string_view plain, std::string* out);
// Appends the plaintext to `out`. False, with nothing appended, when anything does not match.
bool AppendDecrypted(const SecretKey& key, absl::string_view nonce, absl::string_view associated,
                     absl::string_view encrypted, std::string* out);

}  // namespace mayfly
