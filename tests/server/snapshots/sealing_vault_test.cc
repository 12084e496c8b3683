#include "server/snapshots/sealing_vault.h"

#include <chrono>
#include <filesystem>
#include <future>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_wall_clock.h"
#include "tests/support/gate.h"
#include "tests/support/redis_server.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace mayfly {
namespace {

using testing::AllOf;
using testing::AnyOf;
using testing::HasSubstr;
using testing::MatchesRegex;
using testing::Not;

using Answer = absl::StatusOr<std::string>;

std::string KeyLine(char digit) { return std::string(64, digit) + "\n"; }

SnapshotVault::MakePlain Text(std::string text) {
  return [text = std::move(text)] { return text; };
}

// The answer of one call, once it is there.
class Pending {
 public:
  SnapshotVault::Done done() {
    return [promise = promise_](Answer answer) { promise->set_value(std::move(answer)); };
  }
  Answer Wait() {
    std::future<Answer> future = promise_->get_future();
    if (future.wait_for(std::chrono::seconds(20)) == std::future_status::ready) return future.get();
    return absl::InternalError("no answer");
  }

 private:
  std::shared_ptr<std::promise<Answer>> promise_ = std::make_shared<std::promise<Answer>>();
};

class SealingVaultTest : public testing::Test {
 protected:
  SealingVaultTest() {
    dir_.Write("keys", KeyLine('a'));
    options_.key_file = dir_ / "keys";
    options_.store = dir_ / "store";
    options_.ttl_seconds = 100;
  }

  std::unique_ptr<SealingVault> Open() {
    return *SealingVault::Create(options_, &clock_, &logger_);
  }
  static Answer Seal(SnapshotVault* vault, const std::string& tenant, const std::string& text) {
    Pending pending;
    vault->Seal(tenant, Text(text), pending.done());
    return pending.Wait();
  }
  static Answer Unseal(SnapshotVault* vault, const std::string& tenant, const std::string& sealed) {
    Pending pending;
    vault->Unseal(tenant, sealed, pending.done());
    return pending.Wait();
  }
  static Answer Save(SnapshotVault* vault, const std::string& tenant, const std::string& text) {
    Pending pending;
    vault->Save(tenant, Text(text), pending.done());
    return pending.Wait();
  }
  static Answer Load(SnapshotVault* vault, const std::string& tenant, const std::string& token) {
    Pending pending;
    vault->Load(tenant, token, pending.done());
    return pending.Wait();
  }
  std::vector<std::filesystem::path> StoredFiles() const {
    std::vector<std::filesystem::path> files;
    for (const auto& file : std::filesystem::directory_iterator(options_.store)) {
      files.push_back(file.path());
    }
    return files;
  }

  const TempDir dir_;
  const Logger logger_{LogLevel::kDebug, LogFormat::kText};
  FakeWallClock clock_;
  SnapshotOptions options_;
};

TEST_F(SealingVaultTest, WhatIsSealedOrSavedComesBackOnEveryReplica) {
  const auto one = Open(), two = Open();
  EXPECT_TRUE(one->has_store());
  EXPECT_EQ(*Unseal(two.get(), "a", *Seal(one.get(), "a", "x")), "x");
  EXPECT_EQ(*Load(two.get(), "a", *Save(one.get(), "a", "y")), "y");
}

TEST_F(SealingVaultTest, ATokenHas256BitsIsSafeInUrlsAndIsNotInTheStore) {
  const auto vault = Open();
  const std::string token = *Save(vault.get(), "a", "x");
  EXPECT_THAT(token, MatchesRegex("[A-Za-z0-9_-]{43}"));
  EXPECT_NE(token, *Save(vault.get(), "a", "x"));
  for (const auto& file : StoredFiles()) {
    EXPECT_THAT(file.filename().string(),
                AllOf(MatchesRegex("[0-9a-f]{64}\\.snapshot"), Not(HasSubstr(token))));
  }
}

TEST_F(SealingVaultTest, WithoutAStoreOnlySealingWorks) {
  options_.store = "";
  const auto vault = Open();
  EXPECT_FALSE(vault->has_store());
  EXPECT_EQ(*Unseal(vault.get(), "a", *Seal(vault.get(), "a", "x")), "x");
  EXPECT_THAT(Save(vault.get(), "a", "x"), HasCode(absl::StatusCode::kFailedPrecondition));
  EXPECT_THAT(Load(vault.get(), "a", "x"), HasCode(absl::StatusCode::kFailedPrecondition));
}

TEST_F(SealingVaultTest, AnotherTenantsTokenReadsLikeNoneAtAll) {
  const auto vault = Open();
  const std::string token = *Save(vault.get(), "a", "x");
  const Answer foreign = Load(vault.get(), "b", token);
  EXPECT_THAT(foreign, HasCode(absl::StatusCode::kNotFound));
  EXPECT_EQ(foreign.status(), Load(vault.get(), "b", "no such token").status());
  clock_.Advance(100);
  EXPECT_EQ(Load(vault.get(), "b", token).status(), foreign.status());
  EXPECT_THAT(Unseal(vault.get(), "b", *Seal(vault.get(), "a", "x")),
              HasCode(absl::StatusCode::kPermissionDenied));
}

TEST_F(SealingVaultTest, WhatHasExpiredIsCalledThatOnceAndIsGone) {
  const auto vault = Open();
  const std::string token = *Save(vault.get(), "a", "x");
  clock_.Advance(99);
  EXPECT_THAT(Load(vault.get(), "a", token), IsOk());
  clock_.Advance(1);
  EXPECT_THAT(Load(vault.get(), "a", token),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("expired")));
  EXPECT_TRUE(StoredFiles().empty());
  EXPECT_THAT(Load(vault.get(), "a", token), HasCode(absl::StatusCode::kNotFound));
}

TEST_F(SealingVaultTest, SnapshotsThatChangedPlacesInTheStoreAreFound) {
  const auto vault = Open();
  const std::string one = *Save(vault.get(), "a", "x"), two = *Save(vault.get(), "a", "y");
  const auto files = StoredFiles();
  ASSERT_EQ(files.size(), 2u);
  std::filesystem::rename(files[0], dir_ / "between");
  std::filesystem::rename(files[1], files[0]);
  std::filesystem::rename(dir_ / "between", files[1]);
  EXPECT_THAT(Load(vault.get(), "a", one), HasCode(absl::StatusCode::kDataLoss));
  EXPECT_THAT(Load(vault.get(), "a", two), HasCode(absl::StatusCode::kDataLoss));
}

TEST_F(SealingVaultTest, ASnapshotThatAClientKeptCannotBePutIntoTheStore) {
  const auto vault = Open();
  const std::string token = *Save(vault.get(), "a", "x");
  const std::string sealed = *Seal(vault.get(), "a", "y");
  dir_.Write("store/" + StoredFiles().front().filename().string(), sealed);
  EXPECT_THAT(Load(vault.get(), "a", token), HasCode(absl::StatusCode::kDataLoss));
}

TEST_F(SealingVaultTest, ANewKeyIsTakenWithoutARestart) {
  const auto vault = Open();
  const std::string old = *Seal(vault.get(), "a", "x");
  dir_.Write("keys", KeyLine('b') + KeyLine('a'));
  EXPECT_EQ(*Unseal(vault.get(), "a", old), "x");
  const std::string young = *Seal(vault.get(), "a", "y");
  dir_.Write("keys", KeyLine('b'));
  EXPECT_EQ(*Unseal(vault.get(), "a", young), "y");
  EXPECT_THAT(Unseal(vault.get(), "a", old), HasCode(absl::StatusCode::kFailedPrecondition));
}

TEST_F(SealingVaultTest, ASnapshotThatIsTooLargeIsRefused) {
  options_.max_bytes = 4;
  const auto vault = Open();
  EXPECT_EQ(*Load(vault.get(), "a", *Save(vault.get(), "a", "1234")), "1234");
  EXPECT_THAT(Save(vault.get(), "a", "12345"),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("the limit is 4")));
}

TEST_F(SealingVaultTest, WithoutMemoryOneSnapshotFailsAndTheNextWorks) {
  const auto vault = Open();
  Pending pending;
  vault->Save(
      "a", []() -> std::string { throw std::bad_alloc(); }, pending.done());
  EXPECT_THAT(pending.Wait(), HasCode(absl::StatusCode::kResourceExhausted));
  EXPECT_THAT(Save(vault.get(), "a", "x"), IsOk());
}

TEST_F(SealingVaultTest, CallsReturnAtOnceAndAreAnsweredOnTheVaultsThreadInOrder) {
  const auto vault = Open();
  Gate gate;
  std::vector<std::string> answers;
  std::thread::id made, answered;
  vault->Seal(
      "a",
      [&] {
        gate.Pass();
        made = std::this_thread::get_id();
        return std::string();
      },
      [&](const Answer&) { answers.push_back("first"); });
  Pending last;
  vault->Seal("a", Text("x"), [&, done = last.done()](const Answer& answer) {
    answers.push_back("second");
    answered = std::this_thread::get_id();
    done(answer);
  });
  ASSERT_TRUE(gate.WaitForArrival());
  gate.Open();
  EXPECT_THAT(last.Wait(), IsOk());
  EXPECT_EQ(answers, (std::vector<std::string>{"first", "second"}));
  EXPECT_EQ(made, answered);
  EXPECT_NE(answered, std::this_thread::get_id());
}

TEST_F(SealingVaultTest, AVaultThatClosesAnswersEveryCallOnce) {
  constexpr int kCalls = 50;
  std::vector<Answer> answers;
  {
    const auto vault = Open();
    for (int i = 0; i < kCalls; ++i) {
      vault->Save("a", Text("x"), [&](Answer answer) { answers.push_back(std::move(answer)); });
    }
  }
  ASSERT_EQ(answers.size(), size_t{kCalls});
  for (const Answer& answer : answers) {
    EXPECT_THAT(answer, AnyOf(IsOk(), HasCode(absl::StatusCode::kUnavailable)));
  }
}

TEST_F(SealingVaultTest, LogsHoldNoTokenNoContentAndNoKey) {
  testing::internal::CaptureStderr();
  std::string token;
  {
    const auto vault = Open();
    token = *Save(vault.get(), "a", "what the user said");
    EXPECT_THAT(Load(vault.get(), "a", token), IsOk());
    std::filesystem::resize_file(StoredFiles().front(), 120);
    EXPECT_THAT(Load(vault.get(), "a", token), HasCode(absl::StatusCode::kDataLoss));
    dir_.Write("keys", KeyLine('b'));
    EXPECT_THAT(Seal(vault.get(), "a", "x"), IsOk());
  }
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, AllOf(HasSubstr("snapshot_saved"), HasSubstr("snapshot_loaded"),
                         HasSubstr("snapshot_failed"), HasSubstr("DATA_LOSS")));
  EXPECT_THAT(log, AllOf(Not(HasSubstr(token)), Not(HasSubstr("what the user")),
                         Not(HasSubstr("aaaa")), Not(HasSubstr("bbbb"))));
}

TEST_F(SealingVaultTest, AnErrorAtTheStartNamesTheFlagAndNoPassword) {
  const auto create = [&] { return SealingVault::Create(options_, &clock_, &logger_).status(); };
  options_.store = "redis://:s3cret@host:x";
  EXPECT_THAT(create(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("--snapshot_store: want"), Not(HasSubstr("s3cret")))));
  options_.store = dir_ / "no/such/parent";
  EXPECT_THAT(create(), StatusIs(absl::StatusCode::kUnavailable, HasSubstr("--snapshot_store: ")));
  options_.key_file = dir_ / "none";
  EXPECT_THAT(create(), StatusIs(absl::StatusCode::kInvalidArgument,
                                 AllOf(HasSubstr("--snapshot_key_file="), HasSubstr("/none"))));
}

TEST_F(SealingVaultTest, AKilledStoreFailsOneSnapshotAndIsFoundAgain) {
  if (!RedisServer::IsInstalled()) GTEST_SKIP() << "redis-server is not installed";
  RedisServer server;
  ASSERT_TRUE(server.Start());
  options_.store = "redis+unix://" + server.address().socket_path;
  const auto vault = Open();
  EXPECT_EQ(*Load(vault.get(), "a", *Save(vault.get(), "a", "x")), "x");
  server.Kill();
  EXPECT_THAT(Save(vault.get(), "a", "x"), HasCode(absl::StatusCode::kUnavailable));
  EXPECT_EQ(*Unseal(vault.get(), "a", *Seal(vault.get(), "a", "y")), "y");
  ASSERT_TRUE(server.Start());
  EXPECT_EQ(*Load(vault.get(), "a", *Save(vault.get(), "a", "x")), "x");
}

}  // namespace
}  // namespace mayfly
