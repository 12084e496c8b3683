#include "engine/model/model_config.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace mayfly {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

Json Good() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"hidden_size", 32},
          {"intermediate_size", 64},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"max_position_embeddings", 256},
          {"vocab_size", 96},
          {"eos_token_id", 2}};
}

TEST(ModelConfigTest, ReadsWhatIsThere) {
  Json json = Good();
  json.update({{"head_dim", 16},
               {"rms_norm_eps", 1e-5},
               {"tie_word_embeddings", true},
               {"rope_theta", 500000.0}});
  const ModelConfig config = ParseModelConfig(json.dump()).value();
  EXPECT_EQ(config.architecture, "LlamaForCausalLM");
  EXPECT_EQ(config.hidden, 32);
  EXPECT_EQ(config.intermediate, 64);
  EXPECT_EQ(config.layers, 2);
  EXPECT_EQ(config.heads, 4);
  EXPECT_EQ(config.kv_heads, 2);
  EXPECT_EQ(config.head_dim, 16);
  EXPECT_EQ(config.max_positions, 256);
  EXPECT_EQ(config.vocabulary, 96);
  EXPECT_DOUBLE_EQ(config.rms_norm_eps, 1e-5);
  EXPECT_TRUE(config.tied_embeddings);
  EXPECT_DOUBLE_EQ(config.rope.theta, 500000);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(2));
}

TEST(ModelConfigTest, WhatIsMissingFollowsFromTheRest) {
  Json json = Good();
  json.erase("num_key_value_heads");
  json.erase("eos_token_id");
  const ModelConfig config = ParseModelConfig(json.dump()).value();
  EXPECT_EQ(config.kv_heads, 4);
  EXPECT_EQ(config.head_dim, 8);
  EXPECT_FALSE(config.tied_embeddings);
  EXPECT_FALSE(config.attention_bias);
  EXPECT_THAT(config.eos_token_ids, IsEmpty());
}

TEST(ModelConfigTest, TheArchitectureDecidesBiasesAndNorms) {
  Json json = Good();
  json["architectures"] = {"Qwen2ForCausalLM"};
  ModelConfig config = ParseModelConfig(json.dump()).value();
  EXPECT_TRUE(config.attention_bias);
  EXPECT_FALSE(config.attention_o_bias);
  json["architectures"] = {"Qwen3ForCausalLM"};
  config = ParseModelConfig(json.dump()).value();
  EXPECT_FALSE(config.attention_bias);
  EXPECT_TRUE(config.qk_norm);
  json["architectures"] = {"LlamaForCausalLM"};
  json["attention_bias"] = json["mlp_bias"] = true;
  config = ParseModelConfig(json.dump()).value();
  EXPECT_TRUE(config.attention_bias && config.attention_o_bias && config.mlp_bias);
}

TEST(ModelConfigTest, SeveralEndTokensAndThoseOfTheGenerationConfiguration) {
  const TempDir dir;
  Json json = Good();
  json["eos_token_id"] = {2, 3};
  dir.Write("config.json", json.dump());
  EXPECT_THAT(LoadModelConfig(dir.path())->eos_token_ids, ElementsAre(2, 3));
  dir.Write("generation_config.json", R"({"eos_token_id": 7})");
  EXPECT_THAT(LoadModelConfig(dir.path())->eos_token_ids, ElementsAre(7));
  dir.Write("generation_config.json", "not json");
  EXPECT_THAT(LoadModelConfig(dir.path())->eos_token_ids, ElementsAre(2, 3));
}

TEST(ModelConfigTest, ADirectoryWithoutAConfigurationIsNotFound) {
  EXPECT_THAT(LoadModelConfig("/no/such/directory"),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("/no/such/directory/config.json")));
}

TEST(ModelConfigTest, TextThatIsNoConfigurationIsRefused) {
  for (const char* text :
       {"", "null", "[]", "{", "\"x\"", "{\"a\":}", "\xff\xfe", "{}", R"({"architectures": []})",
        R"({"architectures": "Llama"})", R"({"architectures": [3]})"}) {
    EXPECT_THAT(ParseModelConfig(text),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("config.json")))
        << text;
  }
}

struct BadValue {
  const char* name;
  Json value;
};

class BadValueTest : public testing::TestWithParam<BadValue> {};

TEST_P(BadValueTest, IsRefusedByName) {
  Json json = Good();
  json.update(Json::object({{GetParam().name, GetParam().value}}));
  EXPECT_THAT(ParseModelConfig(json.dump()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(GetParam().name)))
      << GetParam().value;
}

INSTANTIATE_TEST_SUITE_P(
    Fields, BadValueTest,
    testing::Values(BadValue{"hidden_size", 0}, BadValue{"hidden_size", -32},
                    BadValue{"hidden_size", "32"}, BadValue{"hidden_size", 1e12},
                    BadValue{"intermediate_size", nullptr}, BadValue{"vocab_size", 1 << 30},
                    BadValue{"num_hidden_layers", 0}, BadValue{"num_hidden_layers", {1, 2}},
                    BadValue{"num_attention_heads", -1}, BadValue{"num_attention_heads", 5},
                    BadValue{"num_key_value_heads", 3}, BadValue{"num_key_value_heads", 0},
                    BadValue{"max_position_embeddings", -1}, BadValue{"head_dim", 7},
                    BadValue{"head_dim", 0}, BadValue{"head_dim", "big"},
                    BadValue{"hidden_act", "gelu"}, BadValue{"hidden_act", 3},
                    BadValue{"tie_word_embeddings", "yes"}, BadValue{"attention_bias", 1},
                    BadValue{"rms_norm_eps", "small"}, BadValue{"rms_norm_eps", -1.0},
                    BadValue{"rope_theta", "large"}, BadValue{"rope_theta", 0},
                    BadValue{"rope_theta", -1.0}, BadValue{"sliding_window", 16}));
INSTANTIATE_TEST_SUITE_P(Rope, BadValueTest,
                         testing::Values(BadValue{"rope_scaling", "linear"},
                                         BadValue{"rope_scaling", {{"rope_type", "spiral"}}},
                                         BadValue{"rope_parameters", {{"rope_type", "spiral"}}}));

// Fields inside "rope_scaling".
class BadRopeTest : public testing::TestWithParam<BadValue> {};

TEST_P(BadRopeTest, IsRefusedByName) {
  Json json = Good();
  json["rope_scaling"] = {{"rope_type", "yarn"}, {"factor", 4.0}};
  json["rope_scaling"].update(Json::object({{GetParam().name, GetParam().value}}));
  EXPECT_THAT(ParseModelConfig(json.dump()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(GetParam().name)))
      << GetParam().value;
}

INSTANTIATE_TEST_SUITE_P(
    Fields, BadRopeTest,
    testing::Values(BadValue{"factor", 0.5}, BadValue{"factor", "four"}, BadValue{"factor", -1},
                    BadValue{"rope_theta", 0}, BadValue{"partial_rotary_factor", 0.5},
                    BadValue{"partial_rotary_factor", "half"}, BadValue{"beta_fast", {1}},
                    BadValue{"original_max_position_embeddings", 0},
                    BadValue{"original_max_position_embeddings", -4}, BadValue{"truncate", "no"}));

TEST(ModelConfigTest, ASlidingWindowThatIsNotUsedIsNoHindrance) {
  Json json = Good();
  json["sliding_window"] = 16;
  json["use_sliding_window"] = false;
  EXPECT_THAT(ParseModelConfig(json.dump()), IsOk());
  json["use_sliding_window"] = true;
  EXPECT_THAT(ParseModelConfig(json.dump()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("sliding_window")));
  json.erase("use_sliding_window");
  json["sliding_window"] = 256;  // as long as the model itself
  EXPECT_THAT(ParseModelConfig(json.dump()), IsOk());
  json["sliding_window"] = nullptr;
  EXPECT_THAT(ParseModelConfig(json.dump()), IsOk());
}

TEST(ModelConfigTest, ASwitchForTheSlidingWindowThatIsNoSwitchIsRefused) {
  Json json = Good();
  json["sliding_window"] = 16;
  json["use_sliding_window"] = "maybe";
  EXPECT_THAT(ParseModelConfig(json.dump()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("use_sliding_window")));
}

TEST(ModelConfigTest, RopeParametersStandInEitherPlace) {
  Json json = Good();
  json["rope_scaling"] = {{"type", "linear"}, {"factor", 2.0}};
  json["rope_theta"] = 20000.0;
  ModelConfig config = ParseModelConfig(json.dump()).value();
  EXPECT_EQ(config.rope.scaling, RopeScaling::kLinear);
  EXPECT_DOUBLE_EQ(config.rope.theta, 20000);
  json.erase("rope_scaling");
  json["rope_parameters"] = {{"rope_type", "llama3"}, {"factor", 8.0}, {"rope_theta", 30000.0}};
  config = ParseModelConfig(json.dump()).value();
  EXPECT_EQ(config.rope.scaling, RopeScaling::kLlama3);
  EXPECT_DOUBLE_EQ(config.rope.theta, 30000);
  EXPECT_DOUBLE_EQ(config.rope.factor, 8);
  EXPECT_EQ(config.rope.original_max_positions, 256);
}

}  // namespace
}  // namespace mayfly
