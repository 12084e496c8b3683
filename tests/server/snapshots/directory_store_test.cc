#include "server/snapshots/directory_store.h"

#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/fake_wall_clock.h"
#include "tests/support/file_size_limit.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace mayfly {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::UnorderedElementsAre;

constexpr uint64_t kAnySize = uint64_t{1} << 40;

std::vector<std::string> FilesIn(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& file : std::filesystem::directory_iterator(directory)) {
    names.push_back(file.path().filename().string());
  }
  return names;
}

// A disk of 64 KiB at `path` while the object lives, where this user may mount one.
class SmallDisk {
 public:
  explicit SmallDisk(const std::string& path, unsigned long flags = 0) : path_(path) {
    std::filesystem::create_directory(path);
    mounted_ = mount("tmpfs", path.c_str(), "tmpfs", flags, "size=64k") == 0;
  }
  ~SmallDisk() {
    if (mounted_) umount(path_.c_str());
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  bool mounted() const { return mounted_; }

 private:
  const std::string path_;
  bool mounted_ = false;
};

class DirectoryStoreTest : public testing::Test {
 protected:
  std::unique_ptr<DirectoryStore> Open(const std::string& directory) {
    return *DirectoryStore::Open(directory, &clock_, &logger_);
  }
  int64_t In(int64_t seconds) const { return clock_.UnixSeconds() + seconds; }

  const TempDir dir_;
  const Logger logger_{LogLevel::kError, LogFormat::kText};
  FakeWallClock clock_;
};

TEST_F(DirectoryStoreTest, WhatIsPutIsThereForEveryReplicaUntilItIsRemoved) {
  const auto one = Open(dir_.path()), two = Open(dir_.path());
  const std::string bytes("a\0b", 3);
  ASSERT_THAT(one->Put("ab", bytes, In(100)), IsOk());
  EXPECT_EQ(*two->Get("ab", kAnySize), bytes);
  EXPECT_THAT(two->Get("cd", kAnySize), HasCode(absl::StatusCode::kNotFound));
  EXPECT_THAT(two->Remove("ab"), IsOk());
  EXPECT_THAT(two->Remove("ab"), IsOk());
  EXPECT_THAT(one->Get("ab", kAnySize), HasCode(absl::StatusCode::kNotFound));
}

TEST_F(DirectoryStoreTest, FilesAreForTheirOwnerAlone) {
  const std::string directory = dir_ / "new";
  ASSERT_THAT(Open(directory)->Put("ab", "x", In(100)), IsOk());
  EXPECT_THAT(FilesIn(directory), UnorderedElementsAre("ab.snapshot"));
  struct stat info {};
  ASSERT_EQ(stat((directory + "/ab.snapshot").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  ASSERT_EQ(stat(directory.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700u);
}

TEST_F(DirectoryStoreTest, ASnapshotThatIsTooLargeIsNotRead) {
  const auto store = Open(dir_.path());
  ASSERT_THAT(store->Put("ab", "12345", In(100)), IsOk());
  EXPECT_THAT(store->Get("ab", 5), IsOk());
  EXPECT_THAT(store->Get("ab", 4), StatusIs(absl::StatusCode::kResourceExhausted,
                                            HasSubstr("has 5 bytes, the limit is 4")));
}

TEST_F(DirectoryStoreTest, WhatHasExpiredIsRemovedAtTheStart) {
  const auto store = Open(dir_.path());
  ASSERT_THAT(store->Put("aa", "x", In(100)), IsOk());
  ASSERT_THAT(store->Put("bb", "x", In(200)), IsOk());
  dir_.Write("notes.txt", "somebody else's");
  clock_.Advance(100);
  Open(dir_.path());
  EXPECT_THAT(FilesIn(dir_.path()), UnorderedElementsAre("bb.snapshot", "notes.txt"));
}

TEST_F(DirectoryStoreTest, WhatHasExpiredIsRemovedWhileSaving) {
  const auto store = Open(dir_.path());
  ASSERT_THAT(store->Put("aa", "x", In(100)), IsOk());
  clock_.Advance(100);
  ASSERT_THAT(store->Put("bb", "x", In(100)), IsOk());
  EXPECT_THAT(FilesIn(dir_.path()), UnorderedElementsAre("bb.snapshot"));
}

TEST_F(DirectoryStoreTest, WhatACrashLeftHalfWrittenIsRemovedAfterAnHour) {
  dir_.Write("12.snapshot-being-written", "half");
  clock_.Advance(3500);
  Open(dir_.path());
  EXPECT_THAT(FilesIn(dir_.path()), Not(IsEmpty()));
  clock_.Advance(200);
  Open(dir_.path());
  EXPECT_THAT(FilesIn(dir_.path()), IsEmpty());
}

TEST_F(DirectoryStoreTest, AClockThatWasWrongForAWhileDoesNotKeepWhatExpiresFromBeingRemoved) {
  constexpr int64_t kYear = 365 * 24 * 3600;
  const auto store = Open(dir_.path());
  clock_.Advance(kYear);
  ASSERT_THAT(store->Put("aa", "x", In(100)), IsOk());
  clock_.Advance(-kYear);
  ASSERT_THAT(store->Put("bb", "x", In(100)), IsOk());
  clock_.Advance(3600);
  ASSERT_THAT(store->Put("cc", "x", In(100)), IsOk());
  EXPECT_THAT(FilesIn(dir_.path()), UnorderedElementsAre("aa.snapshot", "cc.snapshot"));
}

TEST_F(DirectoryStoreTest, AWriteThatFailsLeavesNothingBehind) {
  const auto store = Open(dir_.path());
  {
    const FileSizeLimit limit(1000);
    EXPECT_THAT(store->Put("ab", std::string(2000, 'x'), In(100)),
                StatusIs(absl::StatusCode::kResourceExhausted,
                         HasSubstr("the snapshot store cannot write a file")));
  }
  EXPECT_THAT(FilesIn(dir_.path()), IsEmpty());
  EXPECT_THAT(store->Put("ab", std::string(2000, 'x'), In(100)), IsOk());
}

TEST_F(DirectoryStoreTest, AFullDiskIsCalledThatAndWorksAgainOnceThereIsRoom) {
  const std::string path = dir_ / "disk";
  const SmallDisk disk(path);
  if (!disk.mounted()) GTEST_SKIP() << "this user may not mount a small disk";
  const auto store = Open(path);
  ASSERT_THAT(store->Put("aa", std::string(30000, 'x'), In(100)), IsOk());
  EXPECT_THAT(store->Put("bb", std::string(60000, 'x'), In(100)),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("No space left")));
  EXPECT_THAT(FilesIn(path), UnorderedElementsAre("aa.snapshot"));
  EXPECT_THAT(store->Remove("aa"), IsOk());
  EXPECT_THAT(store->Put("bb", std::string(60000, 'x'), In(100)), IsOk());
}

TEST_F(DirectoryStoreTest, ADirectoryThatIsGoneIsUnavailableUntilItIsBack) {
  const std::string directory = dir_ / "store";
  const auto store = Open(directory);
  std::filesystem::remove(directory);
  EXPECT_THAT(store->Put("ab", "x", In(100)), HasCode(absl::StatusCode::kUnavailable));
  std::filesystem::create_directory(directory);
  EXPECT_THAT(store->Put("ab", "x", In(100)), IsOk());
}

TEST_F(DirectoryStoreTest, WhatIsNoDirectoryIsRefusedAtTheStart) {
  dir_.Write("file", "");
  EXPECT_THAT(DirectoryStore::Open(dir_ / "file", &clock_, &logger_),
              HasCode(absl::StatusCode::kUnavailable));
  EXPECT_THAT(DirectoryStore::Open(dir_ / "no/such/parent", &clock_, &logger_),
              HasCode(absl::StatusCode::kUnavailable));
}

TEST_F(DirectoryStoreTest, ADirectoryThatMayNotBeWrittenIsRefusedAtTheStart) {
  const std::string path = dir_ / "read_only";
  // To root, file permissions mean nothing.
  const SmallDisk disk(path, MS_RDONLY);
  if (geteuid() == 0 && !disk.mounted()) GTEST_SKIP() << "this root may not mount a disk";
  if (!disk.mounted()) {
    using std::filesystem::perms;
    std::filesystem::permissions(path, perms::owner_read | perms::owner_exec);
  }
  EXPECT_THAT(DirectoryStore::Open(path, &clock_, &logger_),
              HasCode(absl::StatusCode::kUnavailable));
}

}  // namespace
}  // namespace mayfly
