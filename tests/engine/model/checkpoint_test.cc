#include "engine/model/checkpoint.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/safetensors_file.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace mayfly {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

Json Entry(const std::string& dtype, const std::vector<int64_t>& shape, uint64_t begin,
           uint64_t end) {
  return {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {begin, end}}};
}

// Two floats under "a", and four under "b".
Json GoodHeader() {
  return {{"__metadata__", {{"format", "pt"}}},
          {"a", Entry("F32", {2}, 0, 8)},
          {"b", Entry("F32", {2, 2}, 8, 24)}};
}
std::string Floats(const std::vector<float>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}
const std::string kData = Floats({1, 2, 3, 4, 5, 6});

class CheckpointTest : public testing::Test {
 protected:
  absl::StatusOr<Checkpoint> OpenBytes(const std::string& bytes) {
    dir_.Write("model.safetensors", bytes);
    return Checkpoint::Open(dir_.path());
  }
  absl::StatusOr<Checkpoint> OpenHeader(const Json& header) {
    return OpenBytes(SafetensorsBytes(header.dump(), kData));
  }
  void ExpectRefused(const absl::StatusOr<Checkpoint>& checkpoint, const std::string& what) {
    EXPECT_THAT(checkpoint, StatusIs(absl::StatusCode::kInvalidArgument,
                                     AllOf(HasSubstr("model.safetensors"), HasSubstr(what))));
  }

  const TempDir dir_;
};

TEST_F(CheckpointTest, TensorsAreCopiedWhenTheyAreTaken) {
  Checkpoint checkpoint = OpenHeader(GoodHeader()).value();
  const at::Tensor b = checkpoint.Take("b", {2, 2}, at::TensorOptions(at::kFloat)).value();
  EXPECT_TRUE(at::equal(b, at::tensor({3.0f, 4.0f, 5.0f, 6.0f}).view({2, 2})));
  EXPECT_FALSE(b.is_alias_of(checkpoint.Find("b")));
}

TEST_F(CheckpointTest, TensorsAreConvertedWhenTheyAreTaken) {
  Checkpoint checkpoint = OpenHeader(GoodHeader()).value();
  const at::Tensor a = checkpoint.Take("a", {2}, at::TensorOptions(at::kBFloat16)).value();
  EXPECT_EQ(a.scalar_type(), at::kBFloat16);
  EXPECT_EQ(a[1].item<float>(), 2);
}

TEST_F(CheckpointTest, WhatNobodyTookIsKnown) {
  Checkpoint checkpoint = OpenHeader(GoodHeader()).value();
  EXPECT_THAT(checkpoint.Unused(), ElementsAre("a", "b"));
  EXPECT_THAT(checkpoint.Take("a", {2}, at::TensorOptions(at::kFloat)), IsOk());
  EXPECT_THAT(checkpoint.Unused(), ElementsAre("b"));
}

TEST_F(CheckpointTest, AMissingTensorAndAMisshapenOneAreNamed) {
  Checkpoint checkpoint = OpenHeader(GoodHeader()).value();
  const at::TensorOptions options(at::kFloat);
  EXPECT_THAT(checkpoint.Take("c", {2}, options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no tensor c")));
  EXPECT_FALSE(checkpoint.Find("c").defined());
  EXPECT_THAT(checkpoint.Take("b", {4}, options),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("tensor b"), HasSubstr("[2, 2]"), HasSubstr("[4]"))));
  EXPECT_THAT(checkpoint.Unused(), ElementsAre("a", "b"));
}

TEST_F(CheckpointTest, AWeightOfWholeNumbersIsRefused) {
  Json header = GoodHeader();
  header["a"] = Entry("I64", {1}, 0, 8);
  Checkpoint checkpoint = OpenHeader(header).value();
  EXPECT_THAT(checkpoint.Take("a", {1}, at::TensorOptions(at::kFloat)),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("tensor a"), HasSubstr("Long"))));
}

TEST_F(CheckpointTest, ADirectoryWithoutWeightsIsNotFound) {
  EXPECT_THAT(Checkpoint::Open(dir_.path()), HasCode(absl::StatusCode::kNotFound));
  EXPECT_THAT(Checkpoint::OpenFile(dir_ / "none"), HasCode(absl::StatusCode::kNotFound));
}

TEST_F(CheckpointTest, AFileThatIsNoFileIsRefused) {
  std::filesystem::create_directory(dir_ / "model.safetensors");
  ExpectRefused(Checkpoint::Open(dir_.path()), "not a file");
}

TEST_F(CheckpointTest, TruncationAnywhereIsNoticed) {
  const std::string whole = SafetensorsBytes(GoodHeader().dump(), kData);
  for (size_t length = 0; length < whole.size(); ++length) {
    EXPECT_THAT(OpenBytes(whole.substr(0, length)), HasCode(absl::StatusCode::kInvalidArgument))
        << length;
  }
  EXPECT_THAT(OpenBytes(whole), IsOk());
}

TEST_F(CheckpointTest, TruncatedDataNamesTheTensorThatIsCut) {
  const std::string whole = SafetensorsBytes(GoodHeader().dump(), kData);
  ExpectRefused(OpenBytes(whole.substr(0, whole.size() - 1)), "tensor b");
}

TEST_F(CheckpointTest, HeadersThatAreNoHeadersAreRefused) {
  for (const char* header : {"", "[]", "null", "3", "{", "{\"a\":", "\xff\xff"}) {
    ExpectRefused(OpenBytes(SafetensorsBytes(header, kData)), "bad header");
  }
  std::string huge = SafetensorsBytes("{}", "");
  huge.replace(0, 8, std::string(8, '\xff'));
  ExpectRefused(OpenBytes(huge), "truncated");
}

TEST_F(CheckpointTest, EntriesThatMakeNoSenseAreRefusedByName) {
  const std::vector<std::pair<Json, std::string>> entries = {
      {Entry("F64", {1}, 0, 8), "F64"},
      {Entry("I32", {2}, 0, 8), "I32"},
      {Entry("", {2}, 0, 8), "type"},
      {Entry("F32", {3}, 0, 8), "offsets"},
      {Entry("F32", {2}, 0, 4), "offsets"},
      {Entry("F32", {2}, 8, 0), "offsets"},
      {Entry("F32", {2}, 24, 32), "offsets"},
      {Entry("F32", {-2}, 0, 8), "shape"},
      {Entry("F32", {1ll << 62, 1ll << 62}, 0, 8), "shape"},
      {Entry("F32", {1ll << 62, 4}, 0, 0), "shape"},
      {Json::object(), "malformed"},
      {Json(3), "malformed"},
      {{{"dtype", "F32"}, {"shape", "x"}, {"data_offsets", {0, 8}}}, "malformed"},
      {{{"dtype", "F32"}, {"shape", {2}}, {"data_offsets", {0}}}, "malformed"},
      {{{"dtype", 1}, {"shape", {2}}, {"data_offsets", {0, 8}}}, "malformed"},
  };
  for (const auto& [entry, what] : entries) {
    Json header = GoodHeader();
    header["a"] = entry;
    const absl::StatusOr<Checkpoint> checkpoint = OpenHeader(header);
    ExpectRefused(checkpoint, "tensor a");
    ExpectRefused(checkpoint, what);
  }
}

TEST_F(CheckpointTest, TensorsThatShareBytesAreRefused) {
  Json header = GoodHeader();
  header["b"] = Entry("F32", {2, 2}, 4, 20);
  const absl::StatusOr<Checkpoint> checkpoint = OpenHeader(header);
  ExpectRefused(checkpoint, "tensor b");
  ExpectRefused(checkpoint, "overlap");
}

TEST_F(CheckpointTest, AnEmptyTensorIsATensor) {
  Json header = GoodHeader();
  header["empty"] = Entry("F32", {0, 5}, 8, 8);
  const Checkpoint checkpoint = OpenHeader(header).value();
  EXPECT_EQ(checkpoint.Find("empty").numel(), 0);
}

class ShardedCheckpointTest : public CheckpointTest {
 protected:
  absl::StatusOr<Checkpoint> OpenIndex(const Json& index) {
    dir_.Write("model.safetensors.index.json", index.dump());
    return Checkpoint::Open(dir_.path());
  }
  void WriteShard(const std::string& name, const std::string& tensor) {
    const Json header = {{tensor, Entry("F32", {6}, 0, 24)}};
    dir_.Write(name, SafetensorsBytes(header.dump(), kData));
  }
};

TEST_F(ShardedCheckpointTest, TheTensorsOfAllShardsAreThere) {
  WriteShard("one.safetensors", "a");
  WriteShard("two.safetensors", "b");
  const Checkpoint checkpoint =
      OpenIndex({{"weight_map", {{"a", "one.safetensors"}, {"b", "two.safetensors"}}}}).value();
  EXPECT_THAT(checkpoint.Unused(), ElementsAre("a", "b"));
}

TEST_F(ShardedCheckpointTest, AMissingShardIsNamed) {
  WriteShard("one.safetensors", "a");
  EXPECT_THAT(OpenIndex({{"weight_map", {{"a", "one.safetensors"}, {"b", "two.safetensors"}}}}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("two.safetensors")));
}

TEST_F(ShardedCheckpointTest, ATensorThatTwoShardsHoldIsNamed) {
  WriteShard("one.safetensors", "a");
  WriteShard("two.safetensors", "a");
  EXPECT_THAT(OpenIndex({{"weight_map", {{"a", "one.safetensors"}, {"b", "two.safetensors"}}}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tensor a appears twice")));
}

TEST_F(ShardedCheckpointTest, AnIndexThatIsNoneIsRefused) {
  for (const Json& index :
       {Json(3), Json::object(), Json{{"weight_map", {1, 2}}}, Json{{"weight_map", {{"a", 3}}}},
        Json{{"weight_map", {{"a", "../outside.safetensors"}}}}}) {
    EXPECT_THAT(OpenIndex(index), StatusIs(absl::StatusCode::kInvalidArgument,
                                           HasSubstr("model.safetensors.index.json")))
        << index;
  }
}

TEST_F(ShardedCheckpointTest, AnEmptyIndexIsACheckpointWithoutTensors) {
  const absl::StatusOr<Checkpoint> checkpoint = OpenIndex({{"weight_map", Json::object()}});
  ASSERT_THAT(checkpoint, IsOk());
  EXPECT_THAT(checkpoint->Unused(), IsEmpty());
}

}  // namespace
}  // namespace mayfly
