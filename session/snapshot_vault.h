#pragma once

// Keeps what sessions leave behind: seals snapshots for one tenant (encrypted, authenticated,
// expiring) and stores them under a token that nobody can guess. Built by main, outlives the
// sessions. Thread-safe: every call returns at once; `done` is called once, on the vault's own
// thread and without a lock held.
//
// What the calls answer when it does not work:
//   DATA_LOSS            the bytes were changed or end early
//   FAILED_PRECONDITION  there is no store, or the key that sealed the snapshot is not known here
//   INVALID_ARGUMENT     the bytes are no snapshot
//   NOT_FOUND            expired; Load: also unknown, or another tenant's, which reads the same
//   PERMISSION_DENIED    Unseal: sealed for another tenant
//   RESOURCE_EXHAUSTED   the snapshot is larger than allowed, or the store is full
//   UNAVAILABLE          the store does not answer, or the vault closes

#include <functional>
#include <string>

#include "absl/status/statusor.h"

namespace mayfly {

class SnapshotVault {
 public:
  virtual ~SnapshotVault() = default;

  // Makes the plaintext, on the vault's thread: it may be large.
  using MakePlain = std::function<std::string()>;
  using Done = std::function<void(absl::StatusOr<std::string>)>;

  // Whether Save and Load can work.
  virtual bool has_store() const = 0;

  // Answers the sealed bytes.
  virtual void Seal(std::string tenant, MakePlain plain, Done done) = 0;
  // Answers the plaintext.
  virtual void Unseal(std::string tenant, std::string sealed, Done done) = 0;
  // Seals and stores; answers the resume token.
  virtual void Save(std::string tenant, MakePlain plain, Done done) = 0;
  // Answers the plaintext. The snapshot stays in the store until it expires.
  virtual void Load(std::string tenant, std::string token, Done done) = 0;
};

}  // namespace mayfly
