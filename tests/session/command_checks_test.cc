#include "session/command_checks.h"

#include <string>

#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

AppendCommand AppendOf(TextInput input) {
  AppendCommand command;
  command.input = std::move(input);
  return command;
}

TEST(CommandChecksTest, ALabelIsShort) {
  EXPECT_THAT(CheckLabel(std::string(kMaxLabelBytes, 'x')), IsOk());
  EXPECT_THAT(CheckLabel(std::string(kMaxLabelBytes + 1, 'x')),
              StatusIs(kInvalid, HasSubstr("label has 257 bytes, the limit is 256")));
}

TEST(CommandChecksTest, AnAppendNeedsInput) {
  EXPECT_THAT(CheckAppend({}), StatusIs(kInvalid, HasSubstr("no input")));
  EXPECT_THAT(CheckAppend(AppendOf("")), StatusIs(kInvalid, HasSubstr("text is empty")));
  EXPECT_THAT(CheckAppend(AppendOf(ChatInput{})), StatusIs(kInvalid, HasSubstr("messages")));
  AppendCommand ids;
  ids.input = std::vector<uint32_t>{};
  EXPECT_THAT(CheckAppend(ids), StatusIs(kInvalid, HasSubstr("token_ids is empty")));
}

TEST(CommandChecksTest, TextMustBeUtf8WhereverItStands) {
  EXPECT_THAT(CheckAppend(AppendOf("\xFF")), StatusIs(kInvalid, HasSubstr("UTF-8")));
  EXPECT_THAT(CheckAppend(AppendOf(ChatInput{.messages = {{"user", "hi"}, {"user", "\xFF"}}})),
              StatusIs(kInvalid, HasSubstr("messages[1].content")));
  EXPECT_THAT(CheckAppend(AppendOf(ChatInput{.messages = {{"", "hi"}}})),
              StatusIs(kInvalid, HasSubstr("messages[0].role")));
}

TEST(CommandChecksTest, AnAppendAboveItsLimitNamesBothNumbers) {
  SessionLimits limits;
  limits.max_append_tokens = 10;
  EXPECT_THAT(CheckAppendLength(10, limits), IsOk());
  EXPECT_THAT(CheckAppendLength(11, limits),
              StatusIs(kInvalid, AllOf(HasSubstr("11 tokens"), HasSubstr("is 10"))));
  EXPECT_THAT(CheckAppendLength(0, limits), HasCode(kInvalid));
}

TEST(CommandChecksTest, TokenIdsLieInTheVocabulary) {
  EXPECT_THAT(CheckTokenIds({0, 99}, 100), IsOk());
  EXPECT_THAT(CheckTokenIds({0, 100}, 100),
              StatusIs(kInvalid, AllOf(HasSubstr("100 at index 1"), HasSubstr("100 tokens"))));
  EXPECT_THAT(CheckTokenIds({0xFFFFFFFF}, 100), HasCode(kInvalid));
}

TEST(CommandChecksTest, AGenerationHasItsLimits) {
  SessionLimits limits;
  limits.max_generate_tokens = 100;
  GenerateCommand command;
  EXPECT_THAT(CheckGenerate(command, limits), StatusIs(kInvalid, HasSubstr("max_tokens is 0")));
  command.max_tokens = 101;
  EXPECT_THAT(CheckGenerate(command, limits),
              StatusIs(kInvalid, AllOf(HasSubstr("101"), HasSubstr("100"))));
  command.max_tokens = 100;
  EXPECT_THAT(CheckGenerate(command, limits), IsOk());
  command.logprobs = 21;
  EXPECT_THAT(CheckGenerate(command, limits),
              StatusIs(kInvalid, AllOf(HasSubstr("21"), HasSubstr("20"))));
}

TEST(CommandChecksTest, StopStringsAreFewAndNotEmptyAndText) {
  GenerateCommand command;
  command.max_tokens = 1;
  command.stop.assign(16, "x");
  EXPECT_THAT(CheckGenerate(command, {}), IsOk());
  command.stop.push_back("x");
  EXPECT_THAT(CheckGenerate(command, {}),
              StatusIs(kInvalid, AllOf(HasSubstr("17"), HasSubstr("16"))));
  command.stop = {"a", ""};
  EXPECT_THAT(CheckGenerate(command, {}), StatusIs(kInvalid, HasSubstr("stop[1] is empty")));
  command.stop = {"\xFF"};
  EXPECT_THAT(CheckGenerate(command, {}), StatusIs(kInvalid, HasSubstr("UTF-8")));
  command.stop = {};
  command.stop_token_ids.assign(257, 1);
  EXPECT_THAT(CheckGenerate(command, {}), StatusIs(kInvalid, HasSubstr("257")));
}

}  // namespace
}  // namespace mayfly
