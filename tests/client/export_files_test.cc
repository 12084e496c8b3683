#include "client/export_files.h"

#include <filesystem>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/support/file_size_limit.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace mayfly::cli {
namespace {

using ::testing::HasSubstr;

// All of a file in one part.
v1::Exported Whole(const std::string& file, size_t bytes) {
  v1::Exported part;
  part.set_file(file);
  part.set_file_bytes(bytes);
  part.set_data(std::string(bytes, 'x'));
  return part;
}

class ExportFilesTest : public testing::TestWithParam<ExportFiles::Shape> {
 protected:
  const TempDir dir_;
};

TEST_P(ExportFilesTest, AFullDiskIsSaidAndLeavesNothingBehind) {
  const std::string path = dir_ / "export";
  // What fits the stream's buffer fails as it leaves it.
  for (const size_t bytes : {200, 1'000'000}) {
    const FileSizeLimit full(100);
    ExportFiles files(path, GetParam());
    EXPECT_THAT(files.Write(Whole("model", bytes)),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr(path + ": File too large")));
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir_.path()));
}

TEST_P(ExportFilesTest, WhatCouldBeWrittenIsKeptWholeAndReplacesNothing) {
  const std::string path = dir_ / "export";
  for (const bool first : {true, false}) {
    ExportFiles files(path, GetParam());
    ASSERT_THAT(files.Write(Whole("model", 200)), IsOk());
    EXPECT_THAT(files.Keep(),
                HasCode(first ? absl::StatusCode::kOk : absl::StatusCode::kAlreadyExists));
  }
  const bool folder = GetParam() == ExportFiles::Shape::kFolder;
  EXPECT_EQ(std::filesystem::file_size(folder ? path + "/model" : path), 200u);
  EXPECT_FALSE(std::filesystem::exists(path + ".part"));
}

INSTANTIATE_TEST_SUITE_P(Shapes, ExportFilesTest,
                         testing::Values(ExportFiles::Shape::kFile, ExportFiles::Shape::kFolder),
                         [](const auto& tested) {
                           return tested.param == ExportFiles::Shape::kFile ? "File" : "Folder";
                         });

}  // namespace
}  // namespace mayfly::cli
