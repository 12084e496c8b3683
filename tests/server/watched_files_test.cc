#include "server/secrets/watched_files.h"

#include <filesystem>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace mayfly {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

class WatchedFilesTest : public testing::Test {
 protected:
  WatchedFilesTest() {
    files_.Write("a", "one");
    files_.Write("b", "two");
  }

  const TempDir files_;
  WatchedFiles watched_{{files_ / "a", files_ / "b"}};
};

TEST_F(WatchedFilesTest, TheFirstLookAlwaysAnswersAndTheNextOnlyWhatIsNew) {
  EXPECT_THAT(**watched_.ReadIfChanged(), ElementsAre("one", "two"));
  EXPECT_FALSE(watched_.ReadIfChanged().has_value());
  files_.Write("b", "three");
  EXPECT_THAT(**watched_.ReadIfChanged(), ElementsAre("one", "three"));
  EXPECT_FALSE(watched_.ReadIfChanged().has_value());
}

TEST_F(WatchedFilesTest, BytesThatMoveFromOneFileToTheNextAreAChange) {
  watched_.ReadIfChanged();
  files_.Write("a", "onet");
  files_.Write("b", "wo");
  EXPECT_TRUE(watched_.ReadIfChanged().has_value());
}

TEST_F(WatchedFilesTest, AFileThatGoesIsAnErrorOnceAndNewWhenItComesBack) {
  watched_.ReadIfChanged();
  std::filesystem::remove(files_ / "b");
  EXPECT_THAT(*watched_.ReadIfChanged(),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr((files_ / "b") + ": cannot read it: No such file")));
  EXPECT_FALSE(watched_.ReadIfChanged().has_value());
  files_.Write("b", "two");
  EXPECT_THAT(**watched_.ReadIfChanged(), ElementsAre("one", "two"));
}

TEST_F(WatchedFilesTest, ALinkThatMovesIsAChangeAsKubernetesMakesThem) {
  files_.Write("c", "four");
  WatchedFiles watched({files_ / "link"});
  std::filesystem::create_symlink(files_ / "a", files_ / "link");
  EXPECT_THAT(**watched.ReadIfChanged(), ElementsAre("one"));
  std::filesystem::create_symlink(files_ / "c", files_ / "next");
  std::filesystem::rename(files_ / "next", files_ / "link");
  EXPECT_THAT(**watched.ReadIfChanged(), ElementsAre("four"));
}

TEST_F(WatchedFilesTest, WhatIsNoSmallFileIsRefused) {
  WatchedFiles folder({files_.path()});
  EXPECT_THAT(*folder.ReadIfChanged(), StatusIs(absl::StatusCode::kInvalidArgument,
                                                HasSubstr("cannot read it: Is a directory")));
  files_.Write("big", std::string((4 << 20) + 1, 'x'));
  WatchedFiles big({files_ / "big"});
  EXPECT_THAT(*big.ReadIfChanged(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("the limit")));
}

}  // namespace
}  // namespace mayfly
