#pragma once

// Turns a plaintext into sealed bytes that only the same tenant gets back, from a server with the
// same key, until they expire. Owned by the vault, used on its thread.
//
// Sealed bytes are a header, then the plaintext in segments of 1 MiB, the last of which may be
// shorter (and is empty for an empty plaintext), each encrypted with AES-256-GCM and followed by
// its tag. Numbers are little endian:
//
//   "MFLYSNAP"  magic           u32  format version    8 bytes   key id
//   32 bytes    salt            i64  created           i64       expires (Unix seconds)
//   u64         plaintext size  32 bytes  tenant digest
//
// Each snapshot has a key of its own, HKDF-SHA256 of the server's key and the salt. A segment's
// nonce is a prefix, derived with that key, its index, and whether it is the last (STREAM, Hoang et
// al., eprint 2015/189), so none can be moved, repeated or left out. The header is authenticated
// with every segment, and so is the name that the snapshot is kept under.

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/base/wall_clock.h"
#include "server/snapshots/key_ring.h"

namespace mayfly {

// Whose snapshot it is, and where it is kept: empty where the client keeps it itself.
struct SnapshotLabel {
  absl::string_view tenant;
  absl::string_view name;
};

class Sealer {
 public:
  static constexpr size_t kHeaderBytes = 108;
  static constexpr size_t kSegmentBytes = 1 << 20;

  // Of a plaintext with so many bytes.
  static uint64_t SealedBytes(uint64_t plain_bytes);

  // The clock outlives the sealer.
  explicit Sealer(const WallClock* clock) : clock_(clock) {}

  std::string Seal(const SealingKey& key, const SnapshotLabel& label, int64_t expires_unix_seconds,
                   absl::string_view plain) const;
  // See SnapshotVault for what the errors mean.
  absl::StatusOr<std::string> Unseal(const KeyRing& keys, const SnapshotLabel& label,
                                     absl::string_view sealed) const;

 private:
  const WallClock* const clock_;
};

}  // namespace mayfly
