#include "server/snapshots/key_ring.h"

#include <memory>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace mayfly {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

std::string KeyLine(char digit) { return std::string(64, digit) + "\n"; }

// The id of the key that has this digit 64 times.
std::string IdOf(char digit) { return ParseKeys(KeyLine(digit))->front().id; }

TEST(ParseKeysTest, ReadsOneKeyALineAndSkipsCommentsAndEmptyLines) {
  const auto keys = ParseKeys("# new\n" + KeyLine('a') + "\n  # old\n  " + KeyLine('b') + "\r\n");
  ASSERT_THAT(keys, IsOk());
  ASSERT_EQ(keys->size(), 2u);
  EXPECT_EQ((*keys)[0].id, IdOf('a'));
  EXPECT_EQ((*keys)[1].id, IdOf('b'));
}

TEST(ParseKeysTest, AnErrorNamesTheLineAndNotWhatItSays) {
  const std::string almost(63, 'c');
  EXPECT_THAT(
      ParseKeys(KeyLine('a') + almost),
      StatusIs(kInvalid, AllOf(HasSubstr("line 2: want 64 hex digits"), Not(HasSubstr("ccc")))));
  EXPECT_THAT(ParseKeys(almost + "g"), HasCode(kInvalid));
  EXPECT_THAT(ParseKeys("# nothing\n"), StatusIs(kInvalid, HasSubstr("at least one key")));
}

class KeyRingTest : public testing::Test {
 protected:
  std::unique_ptr<KeyRing> Load(const std::string& text) {
    dir_.Write("keys", text);
    return *KeyRing::Load(dir_ / "keys", &logger_);
  }
  // What a reload logs.
  std::string Reload(KeyRing* ring) {
    testing::internal::CaptureStderr();
    ring->Reload();
    return testing::internal::GetCapturedStderr();
  }

  const TempDir dir_;
  const Logger logger_{LogLevel::kInfo, LogFormat::kText};
};

TEST_F(KeyRingTest, TheFirstKeySealsAndAllAreFound) {
  const auto ring = Load(KeyLine('a') + KeyLine('b'));
  EXPECT_EQ(ring->first().id, IdOf('a'));
  EXPECT_NE(ring->Find(IdOf('b')), nullptr);
  EXPECT_EQ(ring->Find(IdOf('c')), nullptr);
}

TEST_F(KeyRingTest, AFileThatCannotBeUsedIsRefusedAtTheStart) {
  EXPECT_THAT(KeyRing::Load(dir_ / "none", &logger_),
              StatusIs(kInvalid, HasSubstr("/none: cannot read it")));
  EXPECT_THAT(KeyRing::Load(dir_.path(), &logger_),
              StatusIs(kInvalid, HasSubstr("cannot read it")));
  dir_.Write("empty", "");
  EXPECT_THAT(KeyRing::Load(dir_ / "empty", &logger_), StatusIs(kInvalid, HasSubstr("/empty: ")));
}

TEST_F(KeyRingTest, AChangedFileIsTakenOver) {
  const auto ring = Load(KeyLine('a'));
  EXPECT_EQ(Reload(ring.get()), "");
  dir_.Write("keys", KeyLine('b') + KeyLine('a'));
  EXPECT_THAT(Reload(ring.get()), AllOf(HasSubstr("snapshot_keys_reloaded"), HasSubstr("keys=2"),
                                        Not(HasSubstr("aaa"))));
  EXPECT_EQ(ring->first().id, IdOf('b'));
  EXPECT_NE(ring->Find(IdOf('a')), nullptr);
}

TEST_F(KeyRingTest, ABrokenFileChangesNothingAndIsReportedOnce) {
  const auto ring = Load(KeyLine('a'));
  dir_.Write("keys", KeyLine('b') + "oops");
  EXPECT_THAT(Reload(ring.get()), AllOf(HasSubstr("snapshot_keys_not_reloaded"),
                                        HasSubstr("line 2"), Not(HasSubstr("bbb"))));
  EXPECT_EQ(Reload(ring.get()), "");
  EXPECT_EQ(ring->first().id, IdOf('a'));
}

TEST_F(KeyRingTest, AFileThatIsGoneForAWhileChangesNothing) {
  const auto ring = Load(KeyLine('a'));
  std::filesystem::remove(dir_ / "keys");
  EXPECT_THAT(Reload(ring.get()), HasSubstr("cannot read it"));
  EXPECT_EQ(Reload(ring.get()), "");
  EXPECT_EQ(ring->first().id, IdOf('a'));
  dir_.Write("keys", KeyLine('b'));
  EXPECT_THAT(Reload(ring.get()), HasSubstr("snapshot_keys_reloaded"));
  EXPECT_EQ(ring->first().id, IdOf('b'));
}

}  // namespace
}  // namespace mayfly
