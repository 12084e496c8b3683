#include "engine/text/chat_template.h"

#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/text/goldens.h"

namespace mayfly {
namespace {

using ::testing::HasSubstr;

std::vector<ChatMessage> Messages(const nlohmann::json& chat) {
  std::vector<ChatMessage> messages;
  for (const auto& message : chat) messages.push_back({message["role"], message["content"]});
  return messages;
}

TEST(ChatTemplateTest, RendersWhatTransformersRenders) {
  const nlohmann::json golden = ReadGolden("chat_templates.json");
  for (const auto& test : golden["cases"]) {
    const std::string name = test["template"];
    SCOPED_TRACE(name + " " + test["chat"].get<std::string>());
    const auto chat_template = ChatTemplate::FromSource(
        golden["templates"][name].get<std::string>(), golden["special_tokens"]);
    ASSERT_TRUE(chat_template.ok()) << chat_template.status();
    const auto text = (*chat_template)
                          ->Render(Messages(golden["chats"][test["chat"].get<std::string>()]),
                                   test["add_generation_prompt"]);
    if (test.contains("error")) {
      EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(text.status().message()),
                  HasSubstr(test["error"].get<std::string>()));
    } else {
      ASSERT_TRUE(text.ok()) << text.status();
      EXPECT_EQ(*text, test["text"]);
    }
  }
}

TEST(ChatTemplateTest, KnowsTheTime) {
  const auto chat_template =
      ChatTemplate::FromSource("{{ strftime_now('%Y') | length }}{{ strftime_now('%%') }}", {});
  EXPECT_EQ(chat_template.value()->Render({}, false).value(), "4%");
}

TEST(ChatTemplateTest, ATemplateThatCannotBeReadNamesItsLine) {
  const auto chat_template = ChatTemplate::FromSource("fine\n{% if %}", {});
  EXPECT_EQ(chat_template.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(chat_template.status().message()), HasSubstr("line 2"));
}

TEST(ChatTemplateTest, MessagesMustBeUtf8) {
  const auto chat_template = ChatTemplate::FromSource("{{ messages[0].content }}", {}).value();
  const ChatMessage message{"user", "\xFF"};
  const auto text = chat_template->Render(std::span(&message, 1), false);
  EXPECT_EQ(text.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(text.status().message()), HasSubstr("message 0 is not UTF-8"));
}

TEST(ChatTemplateTest, AModelWithoutATemplateIsNotFound) {
  EXPECT_EQ(ChatTemplate::Load("tests/parity/data/llama").status().code(),
            absl::StatusCode::kNotFound);
}

TEST(ChatTemplateTest, TheDefaultModelsTemplateLoads) {
  if (GoldenTokenizer("smollm2") == nullptr) GTEST_SKIP() << "the default model is not set up";
  const auto chat_template = ChatTemplate::Load("models/smollm2-135m-instruct");
  ASSERT_TRUE(chat_template.ok()) << chat_template.status();
  const ChatMessage message{"system", "Be kind."};
  EXPECT_EQ((*chat_template)->Render(std::span(&message, 1), true).value(),
            "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>assistant\n");
}

}  // namespace
}  // namespace mayfly
