#include "client/flags.h"

#include <set>

#include "client/session_flags.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mayfly::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FlagsTest : public ::testing::Test {
 protected:
  absl::StatusOr<std::vector<std::string>> Parse(const std::vector<std::string>& arguments) {
    return ParseFlags(groups_, arguments);
  }
  std::string ErrorOf(const std::vector<std::string>& arguments) {
    return std::string(Parse(arguments).status().message());
  }

  std::string prompt_;
  bool json_ = false;
  uint32_t max_tokens_ = 0;
  v1::Open open_;
  v1::Generate generate_;
  std::vector<FlagGroup> groups_ = {
      {"Own",
       {TextFlag("prompt", "TEXT", "the text", &prompt_), SwitchFlag("json", "JSON", &json_),
        NumberFlag("max_tokens", "tokens", &max_tokens_)}},
      {"Stops", StopFlags(&generate_)},
      AdaptationFlagGroup(open_.mutable_adaptation()),
      SamplingFlagGroup(open_.mutable_sampling()),
      SessionFlagGroup(&open_)};
};

TEST_F(FlagsTest, TakesValuesInBothForms) {
  EXPECT_THAT(*Parse({"--prompt", "--odd", "book", "--max_tokens=7", "--json"}),
              ElementsAre("book"));
  EXPECT_EQ(prompt_, "--odd");
  EXPECT_EQ(max_tokens_, 7u);
  EXPECT_TRUE(json_);
}

TEST_F(FlagsTest, SwitchesCanBeTurnedOff) {
  json_ = true;
  ASSERT_TRUE(Parse({"--json=false"}).ok());
  EXPECT_FALSE(json_);
}

TEST_F(FlagsTest, DashesMayStandForUnderscores) {
  ASSERT_TRUE(Parse({"--max-tokens", "9", "--learning-rate=0.5"}).ok());
  EXPECT_EQ(max_tokens_, 9u);
  EXPECT_EQ(open_.adaptation().learning_rate(), 0.5);
}

TEST_F(FlagsTest, WhatFollowsTwoDashesIsNoFlag) {
  EXPECT_THAT(*Parse({"-", "--", "--json"}), ElementsAre("-", "--json"));
  EXPECT_FALSE(json_);
}

TEST_F(FlagsTest, FillsMessagesByFieldName) {
  ASSERT_TRUE(Parse({"--adaptation", "paper", "--rank", "8", "--gate", "off", "--kv_policy",
                     "refresh_every", "--adapter_seed=3", "--seed=18446744073709551615", "--stop",
                     "a", "--stop", "b", "--ignore_eos", "--stop_token_ids=2"})
                  .ok());
  EXPECT_EQ(open_.adaptation().preset(), v1::PRESET_PAPER);
  EXPECT_EQ(open_.adaptation().rank(), 8u);
  EXPECT_TRUE(open_.adaptation().has_gate());
  EXPECT_FALSE(open_.adaptation().gate());
  EXPECT_EQ(open_.adaptation().kv_policy(), v1::KV_POLICY_REFRESH_EVERY);
  EXPECT_EQ(open_.adaptation().seed(), 3u);
  EXPECT_EQ(open_.seed(), 18446744073709551615u);
  EXPECT_THAT(generate_.stop(), ElementsAre("a", "b"));
  EXPECT_TRUE(generate_.ignore_eos());
  EXPECT_THAT(generate_.stop_token_ids(), ElementsAre(2));
}

TEST_F(FlagsTest, WhatIsNotGivenStaysAbsent) {
  ASSERT_TRUE(Parse({}).ok());
  EXPECT_EQ(open_.adaptation().ByteSizeLong() + open_.sampling().ByteSizeLong(), 0u);
}

TEST_F(FlagsTest, ErrorsNameFlagValueAndWhatIsTaken) {
  EXPECT_EQ(ErrorOf({"--rank", "x"}), "--rank takes a whole number, 0 or more, not 'x'");
  EXPECT_EQ(ErrorOf({"--rank=-1"}), "--rank takes a whole number, 0 or more, not '-1'");
  EXPECT_EQ(ErrorOf({"--alpha=x"}), "--alpha takes a number, not 'x'");
  EXPECT_EQ(ErrorOf({"--gate=maybe"}), "--gate takes on or off, not 'maybe'");
  EXPECT_EQ(ErrorOf({"--adaptation=best"}),
            "--adaptation takes one of paper, balanced, off, not 'best'");
  EXPECT_EQ(ErrorOf({"--json=2"}), "--json takes true or false, not '2'");
  EXPECT_EQ(ErrorOf({"--max_tokens"}), "--max_tokens needs a value");
}

TEST_F(FlagsTest, UnknownFlagsSuggestTheNearest) {
  EXPECT_EQ(ErrorOf({"--max_token", "3"}), "unknown flag --max_token; did you mean --max_tokens?");
  EXPECT_EQ(ErrorOf({"--quite_another"}), "unknown flag --quite_another");
}

// The flags under the group's titles, and the fields they cannot reach, must not drift from the
// proto.
template <typename Options>
void ExpectOneFlagPerField(FlagGroup (*table)(Options*)) {
  Options options;
  const FlagGroup group = table(&options);
  EXPECT_EQ(group.flags.size(), static_cast<size_t>(Options::descriptor()->field_count()));
  for (const Flag& flag : group.flags) {
    const bool is_enum = flag.value.find('|') != std::string::npos && flag.value != "on|off";
    const std::string value = is_enum                  ? flag.value.substr(0, flag.value.find('|'))
                              : flag.value == "on|off" ? "on"
                                                       : "1";
    EXPECT_TRUE(flag.set(value).ok()) << flag.name;
  }
  std::vector<const google::protobuf::FieldDescriptor*> set;
  options.GetReflection()->ListFields(options, &set);
  EXPECT_EQ(set.size(), group.flags.size());
}

TEST(FlagTablesTest, EveryAdaptationOptionHasItsFlag) {
  ExpectOneFlagPerField<v1::AdaptationOptions>(&AdaptationFlagGroup);
}

TEST(FlagTablesTest, EverySamplingOptionHasItsFlag) {
  ExpectOneFlagPerField<v1::SamplingOptions>(&SamplingFlagGroup);
}

TEST_F(FlagsTest, HelpShowsEveryFlagWithItsValue) {
  const std::string help = FlagHelp(groups_);
  EXPECT_THAT(help, HasSubstr("\nOwn:\n  --prompt TEXT               the text\n"));
  EXPECT_THAT(help, HasSubstr("  --gate on|off               drop bad updates"));
  EXPECT_THAT(help, HasSubstr("  --ignore_eos                go on past"));
}

}  // namespace
}  // namespace mayfly::cli
