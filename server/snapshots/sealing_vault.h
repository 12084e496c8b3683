#pragma once

// The SnapshotVault of the server: seals with its keys, stores where its flags say. Built by main,
// outlives the sessions; owns one thread, on which all of its work is done in order.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "absl/status/statusor.h"
#include "engine/base/log.h"
#include "engine/base/mailbox.h"
#include "engine/base/wall_clock.h"
#include "server/snapshots/key_ring.h"
#include "server/snapshots/sealer.h"
#include "server/snapshots/snapshot_options.h"
#include "server/snapshots/snapshot_store.h"
#include "session/snapshot_vault.h"

namespace mayfly {

class SealingVault final : public SnapshotVault {
 public:
  // Reads the keys and opens the store; a store that is not there yet may come later, if it is
  // Redis. An error names the flag. The pointers outlive the vault.
  static absl::StatusOr<std::unique_ptr<SealingVault>> Create(const SnapshotOptions& options,
                                                              const WallClock* clock,
                                                              const Logger* logger);

  // `store` may be null.
  SealingVault(const SnapshotOptions& options, std::unique_ptr<KeyRing> keys,
               std::unique_ptr<SnapshotStore> store, const WallClock* clock, const Logger* logger);
  // Finishes what it is at and answers UNAVAILABLE to what waits.
  ~SealingVault() override;

  bool has_store() const override { return store_ != nullptr; }
  void Seal(std::string tenant, MakePlain plain, Done done) override;
  void Unseal(std::string tenant, std::string sealed, Done done) override;
  void Save(std::string tenant, MakePlain plain, Done done) override;
  void Load(std::string tenant, std::string token, Done done) override;

 private:
  using Answer = absl::StatusOr<std::string>;
  struct Job {
    std::function<Answer()> work;
    Done done;
  };

  void Add(std::function<Answer()> work, Done done);
  // Of the vault's thread, all of them.
  void Run();
  Answer Do(const Job& job) const;
  Answer SealNow(const SnapshotLabel& label, int64_t expires, const MakePlain& plain);
  Answer UnsealNow(const SnapshotLabel& label, absl::string_view sealed);
  Answer SaveNow(const std::string& tenant, const MakePlain& plain);
  Answer LoadNow(const std::string& tenant, const std::string& token);
  // Logs what a client cannot bring about alone.
  Answer Logged(const char* call, Answer answer) const;
  int64_t Expiry() const;

  const int64_t ttl_seconds_;
  const uint64_t max_bytes_;
  const WallClock* const clock_;
  const Logger* const logger_;
  const Sealer sealer_;

  // Owned by the vault's thread.
  const std::unique_ptr<KeyRing> keys_;
  const std::unique_ptr<SnapshotStore> store_;

  // A session has at most a few calls under way, and their number is bounded.
  Mailbox<Job> jobs_;
  std::thread thread_;
};

}  // namespace mayfly
