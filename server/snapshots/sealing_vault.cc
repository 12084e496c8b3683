#include "server/snapshots/sealing_vault.h"

#include <deque>
#include <limits>
#include <new>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "server/secrets/crypto.h"
#include "server/snapshots/directory_store.h"
#include "server/snapshots/redis_address.h"
#include "server/snapshots/redis_store.h"

namespace mayfly {
namespace {

constexpr size_t kTokenBytes = 32;

absl::Status OfFlag(absl::string_view flag, const absl::Status& status) {
  return absl::Status(status.code(), absl::StrCat("--", flag, status.message()));
}

absl::StatusOr<std::unique_ptr<SnapshotStore>> OpenStore(const std::string& store,
                                                         const WallClock* clock,
                                                         const Logger* logger) {
  if (store.empty()) return nullptr;
  if (!IsRedisUrl(store)) return DirectoryStore::Open(store, clock, logger);
  RedisStore::Options options;
  MAYFLY_ASSIGN_OR_RETURN(options.address, ParseRedisUrl(store));
  return std::make_unique<RedisStore>(std::move(options), clock);
}

// Whoever reads the store learns no token from it.
std::string StoreKey(absl::string_view token) { return absl::BytesToHexString(Sha256(token)); }

absl::Status NoStore() {
  return absl::FailedPreconditionError("this server has no snapshot store");
}

}  // namespace

absl::StatusOr<std::unique_ptr<SealingVault>> SealingVault::Create(const SnapshotOptions& options,
                                                                   const WallClock* clock,
                                                                   const Logger* logger) {
  auto keys = KeyRing::Load(options.key_file, logger);
  if (!keys.ok()) return OfFlag("snapshot_key_file=", keys.status());
  auto store = OpenStore(options.store, clock, logger);
  if (!store.ok()) return OfFlag("snapshot_store: ", store.status());
  return std::make_unique<SealingVault>(options, *std::move(keys), *std::move(store), clock,
                                        logger);
}

SealingVault::SealingVault(const SnapshotOptions& options, std::unique_ptr<KeyRing> keys,
                           std::unique_ptr<SnapshotStore> store, const WallClock* clock,
                           const Logger* logger)
    : ttl_seconds_(static_cast<int64_t>(options.ttl_seconds)),
      max_bytes_(options.max_bytes),
      clock_(clock),
      logger_(logger),
      sealer_(clock),
      keys_(std::move(keys)),
      store_(std::move(store)),
      jobs_(std::numeric_limits<size_t>::max()),
      thread_([this] { Run(); }) {}

SealingVault::~SealingVault() {
  jobs_.Close();
  thread_.join();
}

void SealingVault::Seal(std::string tenant, MakePlain plain, Done done) {
  auto work = [this, tenant = std::move(tenant), plain = std::move(plain)] {
    return SealNow({tenant, /*name=*/""}, Expiry(), plain);
  };
  Add(std::move(work), std::move(done));
}

void SealingVault::Unseal(std::string tenant, std::string sealed, Done done) {
  auto work = [this, tenant = std::move(tenant), sealed = std::move(sealed)] {
    return UnsealNow({tenant, /*name=*/""}, sealed);
  };
  Add(std::move(work), std::move(done));
}

void SealingVault::Save(std::string tenant, MakePlain plain, Done done) {
  auto work = [this, tenant = std::move(tenant), plain = std::move(plain)] {
    return Logged("save", SaveNow(tenant, plain));
  };
  Add(std::move(work), std::move(done));
}

void SealingVault::Load(std::string tenant, std::string token, Done done) {
  auto work = [this, tenant = std::move(tenant), token = std::move(token)] {
    return Logged("load", LoadNow(tenant, token));
  };
  Add(std::move(work), std::move(done));
}

void SealingVault::Add(std::function<Answer()> work, Done done) {
  jobs_.PostUnbounded({std::move(work), std::move(done)});
}

void SealingVault::Run() {
  for (std::deque<Job> jobs = jobs_.WaitAndTakeAll(); !jobs.empty();
       jobs = jobs_.WaitAndTakeAll()) {
    for (; !jobs.empty(); jobs.pop_front()) jobs.front().done(Do(jobs.front()));
  }
}

SealingVault::Answer SealingVault::Do(const Job& job) const {
  if (jobs_.closed()) return absl::UnavailableError("the server ends");
  try {
    return job.work();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory for a snapshot");
  }
}

SealingVault::Answer SealingVault::Logged(const char* call, Answer answer) const {
  if (answer.ok() || absl::IsNotFound(answer.status()) || !has_store()) return answer;
  logger_->Warning("snapshot_failed", {{"call", call}, {"error", answer.status().ToString()}});
  return answer;
}

SealingVault::Answer SealingVault::SealNow(const SnapshotLabel& label, int64_t expires,
                                           const MakePlain& plain) {
  keys_->Reload();
  const std::string made = plain();
  if (made.size() > max_bytes_) return SnapshotTooLarge(made.size(), max_bytes_);
  return sealer_.Seal(keys_->first(), label, expires, made);
}

SealingVault::Answer SealingVault::UnsealNow(const SnapshotLabel& label, absl::string_view sealed) {
  keys_->Reload();
  return sealer_.Unseal(*keys_, label, sealed);
}

SealingVault::Answer SealingVault::SaveNow(const std::string& tenant, const MakePlain& plain) {
  if (store_ == nullptr) return NoStore();
  const std::string token = absl::WebSafeBase64Escape(RandomBytes(kTokenBytes));
  const std::string key = StoreKey(token);
  const int64_t expires = Expiry();
  MAYFLY_ASSIGN_OR_RETURN(const std::string sealed, SealNow({tenant, key}, expires, plain));
  MAYFLY_RETURN_IF_ERROR(store_->Put(key, sealed, expires));
  logger_->Info("snapshot_saved", {{"bytes", sealed.size()}});
  return token;
}

SealingVault::Answer SealingVault::LoadNow(const std::string& tenant, const std::string& token) {
  if (store_ == nullptr) return NoStore();
  const std::string key = StoreKey(token);
  // A snapshot of max_bytes_ has grown by its header and tags.
  MAYFLY_ASSIGN_OR_RETURN(const std::string sealed,
                          store_->Get(key, Sealer::SealedBytes(max_bytes_)));
  Answer plain = UnsealNow({tenant, key}, sealed);
  if (absl::IsPermissionDenied(plain.status())) return NoSuchSnapshot();
  if (absl::IsNotFound(plain.status())) store_->Remove(key).IgnoreError();
  if (plain.ok()) logger_->Info("snapshot_loaded", {{"bytes", sealed.size()}});
  return plain;
}

int64_t SealingVault::Expiry() const { return clock_->UnixSeconds() + ttl_seconds_; }

}  // namespace mayfly
