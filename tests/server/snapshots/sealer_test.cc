#include "server/snapshots/sealer.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_wall_clock.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace mayfly {
namespace {

using testing::HasSubstr;

constexpr auto kDataLoss = absl::StatusCode::kDataLoss;
constexpr size_t kSegment = Sealer::kSegmentBytes;
constexpr size_t kSealedSegment = kSegment + kTagBytes;
constexpr int64_t kTtl = 100;

std::string KeyLine(char digit) { return std::string(64, digit) + "\n"; }

// Every byte differs from its neighbours, and every segment from the others.
std::string Plain(size_t bytes) {
  std::string text(bytes, '\0');
  for (size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>(i + i / kSegment * 7);
  return text;
}

class SealerTest : public testing::Test {
 protected:
  SealerTest() { SetKeys(KeyLine('a')); }

  void SetKeys(const std::string& text) {
    dir_.Write("keys", text);
    keys_ = *KeyRing::Load(dir_ / "keys", &logger_);
  }
  std::string Seal(absl::string_view plain, const SnapshotLabel& label = {"tenant", ""}) {
    return sealer_.Seal(keys_->first(), label, clock_.UnixSeconds() + kTtl, plain);
  }
  absl::StatusOr<std::string> Unseal(absl::string_view sealed,
                                     const SnapshotLabel& label = {"tenant", ""}) {
    return sealer_.Unseal(*keys_, label, sealed);
  }
  // Of a sealed snapshot, with header.
  static std::string Segment(const std::string& sealed, size_t index) {
    return sealed.substr(Sealer::kHeaderBytes + index * kSealedSegment, kSealedSegment);
  }

  const TempDir dir_;
  const Logger logger_{LogLevel::kError, LogFormat::kText};
  FakeWallClock clock_;
  const Sealer sealer_{&clock_};
  std::unique_ptr<KeyRing> keys_;
};

TEST_F(SealerTest, WhatWasSealedComesBackWhateverItsSize) {
  for (const size_t bytes : {size_t{0}, size_t{1}, kSegment - 1, kSegment, kSegment + 1,
                             2 * kSegment, 3 * kSegment - 1}) {
    const std::string sealed = Seal(Plain(bytes));
    EXPECT_EQ(sealed.size(), Sealer::SealedBytes(bytes)) << bytes;
    const auto plain = Unseal(sealed);
    ASSERT_THAT(plain, IsOk()) << bytes;
    EXPECT_TRUE(*plain == Plain(bytes)) << bytes;
  }
}

TEST_F(SealerTest, NothingOfTheContentOrTheTenantCanBeSeen) {
  const std::string secret = "what the user said";
  const std::string sealed = Seal(secret, {"tenant-name", "store-name"});
  EXPECT_EQ(sealed.find(secret), sealed.npos);
  EXPECT_EQ(sealed.find("tenant-name"), sealed.npos);
  EXPECT_EQ(sealed.find("store-name"), sealed.npos);
}

TEST_F(SealerTest, TheSameSnapshotIsSealedDifferentlyEachTime) {
  const std::string one = Seal("x"), two = Seal("x");
  EXPECT_NE(one.substr(Sealer::kHeaderBytes), two.substr(Sealer::kHeaderBytes));
}

TEST_F(SealerTest, AChangeOfAnyByteIsFound) {
  const std::string sealed = Seal("a short snapshot");
  const std::vector<std::pair<size_t, absl::StatusCode>> regions = {
      {8, absl::StatusCode::kInvalidArgument},      // magic
      {12, absl::StatusCode::kInvalidArgument},     // version
      {20, absl::StatusCode::kFailedPrecondition},  // key id
      {sealed.size(), kDataLoss},                   // all else, tags included
  };
  size_t i = 0;
  for (const auto& [end, code] : regions) {
    for (; i < end; ++i) {
      for (const int bit : {0, 7}) {
        std::string changed = sealed;
        changed[i] = static_cast<char>(changed[i] ^ (1 << bit));
        EXPECT_THAT(Unseal(changed), HasCode(code)) << "byte " << i;
      }
    }
  }
}

TEST_F(SealerTest, AChangeInEverySegmentIsFound) {
  const std::string sealed = Seal(Plain(2 * kSegment + 10));
  for (size_t at = Sealer::kHeaderBytes; at < sealed.size(); at += kSealedSegment) {
    std::string changed = sealed;
    changed[at] ^= 1;
    EXPECT_THAT(Unseal(changed), StatusIs(kDataLoss, HasSubstr("changed"))) << at;
  }
}

TEST_F(SealerTest, AnEndThatIsMissingIsFoundAndCalledThat) {
  const std::string sealed = Seal(Plain(2 * kSegment + 10));
  for (const size_t bytes :
       {sealed.size() - 1, Sealer::kHeaderBytes + 2 * kSealedSegment,
        Sealer::kHeaderBytes + 2 * kSealedSegment - 1, Sealer::kHeaderBytes + kSealedSegment,
        Sealer::kHeaderBytes + kTagBytes, Sealer::kHeaderBytes, Sealer::kHeaderBytes - 1,
        size_t{8}}) {
    EXPECT_THAT(Unseal(sealed.substr(0, bytes)), StatusIs(kDataLoss, HasSubstr("ends early")))
        << bytes;
  }
  EXPECT_THAT(Unseal(""), HasCode(absl::StatusCode::kInvalidArgument));
}

TEST_F(SealerTest, AnEndIsMissedAlsoWhereTheHeaderIsMadeToFit) {
  constexpr size_t kPlainBytesAt = 68;
  std::string sealed = Seal(Plain(2 * kSegment));
  sealed.resize(Sealer::kHeaderBytes + kSealedSegment);
  for (size_t i = 0; i < 8; ++i) {
    sealed[kPlainBytesAt + i] = static_cast<char>(uint64_t{kSegment} >> (8 * i));
  }
  EXPECT_THAT(Unseal(sealed), StatusIs(kDataLoss, HasSubstr("changed")));
}

TEST_F(SealerTest, WhatFollowsTheEndIsFound) {
  EXPECT_THAT(Unseal(Seal("x") + "y"), StatusIs(kDataLoss, HasSubstr("goes on after its end")));
}

TEST_F(SealerTest, SegmentsThatChangedPlacesAreFound) {
  const std::string sealed = Seal(Plain(3 * kSegment));
  const std::string header = sealed.substr(0, Sealer::kHeaderBytes);
  const std::string a = Segment(sealed, 0), b = Segment(sealed, 1), c = Segment(sealed, 2);
  ASSERT_THAT(Unseal(header + a + b + c), IsOk());
  for (const std::string& body : {b + a + c, a + c + b, a + a + c, a + b + b, c + b + a}) {
    EXPECT_THAT(Unseal(header + body), HasCode(kDataLoss));
  }
}

TEST_F(SealerTest, ASegmentOfAnotherSnapshotIsFound) {
  const std::string one = Seal(Plain(2 * kSegment)), two = Seal(Plain(2 * kSegment));
  EXPECT_THAT(Unseal(one.substr(0, Sealer::kHeaderBytes) + Segment(one, 0) + Segment(two, 1)),
              HasCode(kDataLoss));
}

TEST_F(SealerTest, AnotherTenantIsRefused) {
  const std::string sealed = Seal("x", {"a", ""});
  EXPECT_THAT(Unseal(sealed, {"b", ""}), HasCode(absl::StatusCode::kPermissionDenied));
  EXPECT_THAT(Unseal(sealed, {"", ""}), HasCode(absl::StatusCode::kPermissionDenied));
  EXPECT_EQ(*Unseal(sealed, {"a", ""}), "x");
}

TEST_F(SealerTest, ATenantsNameMayBeEmptyOrLong) {
  for (const std::string& tenant : {std::string(), std::string(100000, 't')}) {
    EXPECT_EQ(*Unseal(Seal("x", {tenant, ""}), {tenant, ""}), "x");
  }
}

TEST_F(SealerTest, ASnapshotThatIsKeptUnderAnotherNameIsRefused) {
  EXPECT_THAT(Unseal(Seal("x", {"a", "one"}), {"a", "two"}), HasCode(kDataLoss));
}

TEST_F(SealerTest, ASnapshotExpires) {
  const std::string sealed = Seal("x");
  clock_.Advance(kTtl - 1);
  EXPECT_THAT(Unseal(sealed), IsOk());
  clock_.Advance(1);
  EXPECT_THAT(Unseal(sealed), StatusIs(absl::StatusCode::kNotFound, HasSubstr("expired")));
  EXPECT_THAT(Unseal(sealed, {"other", ""}), HasCode(absl::StatusCode::kPermissionDenied));
}

TEST_F(SealerTest, AClockThatIsSetBackLosesNothing) {
  const std::string sealed = Seal("x");
  clock_.Advance(-1000000);
  EXPECT_THAT(Unseal(sealed), IsOk());
}

TEST_F(SealerTest, KeysCanBeRotated) {
  const std::string old = Seal("x");
  SetKeys(KeyLine('b') + KeyLine('a'));
  EXPECT_EQ(*Unseal(old), "x");
  const std::string young = Seal("y");
  SetKeys(KeyLine('b'));
  EXPECT_EQ(*Unseal(young), "y");
  EXPECT_THAT(Unseal(old), StatusIs(absl::StatusCode::kFailedPrecondition,
                                    HasSubstr("a key that this server does not have")));
}

// Replicas of two releases share a store while one replaces the other.
TEST_F(SealerTest, ASnapshotOfFormat1Opens) {
  const std::string sealed = absl::HexStringToBytes(
      "4d464c59534e4150010000005de565c6204ead10b25afa5f439690c2ac0ed1cf8aaf841d"
      "b57376945bbdb06e161ec037edcf1c20986a066b00000000005786f40000000005000000"
      "000000000af5807fede8ba939f3266dc315f3a5e67ca5cc3a6b362ba21406d49c055c59d"
      "d837785ae5937109ef612974c8bf7ef1d7928c22c6");
  EXPECT_EQ(*Unseal(sealed, {"tenant", "name"}), "plain");
}

TEST_F(SealerTest, WhatIsNoSnapshotIsCalledThat) {
  EXPECT_THAT(Unseal(std::string(1000, 'x')),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no snapshot")));
}

}  // namespace
}  // namespace mayfly
