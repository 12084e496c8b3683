#include "tests/support/fake_snapshot_vault.h"

#include <optional>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

using Answer = absl::StatusOr<std::string>;

// Keeps the one answer of a call.
SnapshotVault::Done Into(std::optional<Answer>* answer) {
  return [answer](Answer result) { *answer = std::move(result); };
}

// The answer of a call of an immediate vault.
template <typename... Args>
Answer Ask(FakeSnapshotVault* vault, void (FakeSnapshotVault::*call)(Args...), auto... args) {
  std::optional<Answer> answer;
  (vault->*call)(args..., Into(&answer));
  return answer.value_or(absl::InternalError("no answer"));
}

SnapshotVault::MakePlain Text(std::string text) {
  return [text] { return text; };
}

class FakeSnapshotVaultTest : public testing::Test {
 protected:
  Answer Seal(const std::string& tenant, const std::string& text) {
    return Ask(&vault_, &FakeSnapshotVault::Seal, tenant, Text(text));
  }
  Answer Unseal(const std::string& tenant, const std::string& sealed) {
    return Ask(&vault_, &FakeSnapshotVault::Unseal, tenant, sealed);
  }
  Answer Save(const std::string& tenant, const std::string& text) {
    return Ask(&vault_, &FakeSnapshotVault::Save, tenant, Text(text));
  }
  Answer Load(const std::string& tenant, const std::string& token) {
    return Ask(&vault_, &FakeSnapshotVault::Load, tenant, token);
  }

  FakeSnapshotVault vault_{FakeSnapshotVault::Completion::kImmediate};
};

TEST_F(FakeSnapshotVaultTest, WhatIsSealedOrSavedComesBackToItsTenant) {
  EXPECT_EQ(*Unseal("a|1", *Seal("a|1", "x|y")), "x|y");
  EXPECT_EQ(*Load("a", *Save("a", "z")), "z");
}

TEST_F(FakeSnapshotVaultTest, AnswersAsTheRealOneDoes) {
  std::string sealed = *Seal("a", "x");
  EXPECT_THAT(Unseal("b", sealed), HasCode(absl::StatusCode::kPermissionDenied));
  EXPECT_THAT(Load("b", *Save("a", "x")), HasCode(absl::StatusCode::kNotFound));
  EXPECT_THAT(Load("a", "guessed"), HasCode(absl::StatusCode::kNotFound));
  EXPECT_THAT(Unseal("a", "bytes"), HasCode(absl::StatusCode::kInvalidArgument));
  vault_.ExpireAll();
  EXPECT_THAT(Unseal("a", sealed), HasCode(absl::StatusCode::kNotFound));
  sealed.back() ^= 1;
  EXPECT_THAT(Unseal("a", sealed), HasCode(absl::StatusCode::kDataLoss));
}

TEST_F(FakeSnapshotVaultTest, AFailureIsAnsweredOnce) {
  vault_.FailNext(absl::UnavailableError("killed"));
  EXPECT_THAT(Save("a", "x"), HasCode(absl::StatusCode::kUnavailable));
  EXPECT_THAT(Save("a", "x"), IsOk());
  EXPECT_EQ(vault_.stored(), 1u);
}

TEST(FakeSnapshotVaultManualTest, NothingIsAnsweredBeforeTheTestSaysSo) {
  FakeSnapshotVault vault;
  std::optional<Answer> answer;
  vault.Save("a", Text("x"), Into(&answer));
  EXPECT_FALSE(answer.has_value());
  EXPECT_EQ(vault.waiting(), 1u);
  EXPECT_TRUE(vault.Step());
  ASSERT_TRUE(answer.has_value());
  EXPECT_THAT(*answer, IsOk());
  EXPECT_FALSE(vault.Step());
}

TEST(FakeSnapshotVaultManualTest, WithoutAStoreNothingIsSaved) {
  FakeSnapshotVault vault(FakeSnapshotVault::Completion::kImmediate, /*with_store=*/false);
  EXPECT_FALSE(vault.has_store());
  EXPECT_THAT(Ask(&vault, &FakeSnapshotVault::Save, std::string("a"), Text("x")),
              HasCode(absl::StatusCode::kFailedPrecondition));
}

}  // namespace
}  // namespace mayfly
