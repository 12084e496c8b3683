#pragma once

// A SnapshotVault in memory, without encryption, that answers as the real one does. With kManual
// (the default) a call waits until the test calls Step, and is answered on the thread that does;
// with kImmediate it is answered before it returns, which a caller that holds a lock does not
// survive. Owned by the test; calls are thread-safe.

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/mutex.h"
#include "session/snapshot_vault.h"

namespace mayfly {

class FakeSnapshotVault final : public SnapshotVault {
 public:
  enum class Completion { kManual, kImmediate };

  explicit FakeSnapshotVault(Completion completion = Completion::kManual, bool with_store = true)
      : completion_(completion), with_store_(with_store) {}

  bool has_store() const override { return with_store_; }
  void Seal(std::string tenant, MakePlain plain, Done done) override {
    Add(std::move(done), [=, this] { return SealNow(tenant, plain()); });
  }
  void Unseal(std::string tenant, std::string sealed, Done done) override {
    Add(std::move(done), [=, this] { return UnsealNow(tenant, sealed); });
  }
  void Save(std::string tenant, MakePlain plain, Done done) override {
    Add(std::move(done), [=, this] { return SaveNow(tenant, plain()); });
  }
  void Load(std::string tenant, std::string token, Done done) override {
    Add(std::move(done), [=, this] { return LoadNow(tenant, token); });
  }

  // Answers the oldest call that waits; false when none does.
  bool Step() {
    Call call;
    {
      MutexLock lock(&mu_);
      if (waiting_.empty()) return false;
      call = std::move(waiting_.front());
      waiting_.pop_front();
    }
    Answer(call);
    return true;
  }
  void RunUntilIdle() {
    while (Step()) {
    }
  }

  // The next answer is `status`, whatever was asked; its plaintext is not made.
  void FailNext(absl::Status status) {
    MutexLock lock(&mu_);
    failure_ = std::move(status);
  }
  // Everything sealed so far, stored or not, has expired.
  void ExpireAll() {
    MutexLock lock(&mu_);
    first_valid_ = next_;
  }

  // Calls that wait for Step.
  size_t waiting() const {
    MutexLock lock(&mu_);
    return waiting_.size();
  }
  // Snapshots in the store.
  size_t stored() const {
    MutexLock lock(&mu_);
    return stored_.size();
  }

 private:
  using Answerer = std::function<absl::StatusOr<std::string>()>;
  struct Call {
    Done done;
    Answerer answer;
  };

  void Add(Done done, Answerer answer) {
    Call call{std::move(done), std::move(answer)};
    if (completion_ == Completion::kImmediate) return Answer(call);
    MutexLock lock(&mu_);
    waiting_.push_back(std::move(call));
  }
  void Answer(const Call& call) {
    const std::optional<absl::Status> failure = TakeFailure();
    call.done(failure ? absl::StatusOr<std::string>(*failure) : call.answer());
  }
  std::optional<absl::Status> TakeFailure() {
    MutexLock lock(&mu_);
    return std::exchange(failure_, std::nullopt);
  }

  // kMagic | number | hash of what follows | tenant's length | tenant, plaintext.
  static constexpr char kMagic[] = "fake snapshot";

  absl::StatusOr<std::string> SealNow(const std::string& tenant, const std::string& plain) {
    MutexLock lock(&mu_);
    const std::string content = absl::StrCat(tenant.size(), "|", tenant, plain);
    return absl::StrCat(kMagic, "|", next_++, "|", std::hash<std::string>()(content), "|", content);
  }
  absl::StatusOr<std::string> UnsealNow(const std::string& tenant, const std::string& sealed) {
    const std::vector<std::string> parts = absl::StrSplit(sealed, absl::MaxSplits('|', 3));
    if (parts.size() < 4 || parts[0] != kMagic) {
      return absl::InvalidArgumentError("these bytes are no snapshot");
    }
    uint64_t number = 0, hash = 0;
    if (!absl::SimpleAtoi(parts[1], &number) || !absl::SimpleAtoi(parts[2], &hash) ||
        hash != std::hash<std::string>()(parts[3])) {
      return absl::DataLossError("the snapshot was changed after it was sealed");
    }
    const std::string owner = absl::StrCat(tenant.size(), "|", tenant);
    if (!absl::StartsWith(parts[3], owner)) {
      return absl::PermissionDeniedError("the snapshot belongs to another tenant");
    }
    MutexLock lock(&mu_);
    if (number < first_valid_) return absl::NotFoundError("the snapshot has expired");
    return parts[3].substr(owner.size());
  }
  absl::StatusOr<std::string> SaveNow(const std::string& tenant, const std::string& plain) {
    if (!with_store_) return NoStore();
    const absl::StatusOr<std::string> sealed = SealNow(tenant, plain);
    MutexLock lock(&mu_);
    const std::string token = absl::StrCat("fake-token-", stored_.size());
    stored_[token] = *sealed;
    return token;
  }
  absl::StatusOr<std::string> LoadNow(const std::string& tenant, const std::string& token) {
    if (!with_store_) return NoStore();
    std::string sealed;
    {
      MutexLock lock(&mu_);
      const auto found = stored_.find(token);
      if (found == stored_.end()) return Unknown();
      sealed = found->second;
    }
    absl::StatusOr<std::string> plain = UnsealNow(tenant, sealed);
    if (absl::IsPermissionDenied(plain.status())) return Unknown();
    return plain;
  }
  static absl::Status NoStore() {
    return absl::FailedPreconditionError("this server has no snapshot store");
  }
  static absl::Status Unknown() { return absl::NotFoundError("no snapshot has this token"); }

  const Completion completion_;
  const bool with_store_;

  mutable Mutex mu_;
  std::deque<Call> waiting_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, std::string> stored_ ABSL_GUARDED_BY(mu_);
  std::optional<absl::Status> failure_ ABSL_GUARDED_BY(mu_);
  // Numbers what is sealed; what has a number below first_valid_ has expired.
  uint64_t next_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t first_valid_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace mayfly
