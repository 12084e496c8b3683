#include "engine/text/tokenizer.h"

#include <string>
#include <thread>
#include <vector>

#include "engine/base/utf8.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/text/goldens.h"

namespace mayfly {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Tokens = std::vector<TokenId>;

class GoldenTokenizerTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    tokenizer_ = GoldenTokenizer(GetParam());
    if (tokenizer_ == nullptr) GTEST_SKIP() << "the default model is not set up";
    golden_ = ReadGolden(GetParam() + ".golden.json");
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  nlohmann::json golden_;
};

TEST_P(GoldenTokenizerTest, NastyTextsGiveHuggingFacesTokens) {
  for (const auto& golden : golden_["texts"]) {
    const std::string text = golden["text"];
    EXPECT_EQ(tokenizer_->Encode(text).value(), golden["ids"].get<Tokens>()) << text;
    EXPECT_EQ(tokenizer_->Encode(text, /*add_special_tokens=*/true).value(),
              golden["special_ids"].get<Tokens>())
        << text;
  }
}

TEST_P(GoldenTokenizerTest, TokensGiveHuggingFacesText) {
  for (const auto& golden : golden_["texts"]) {
    const Tokens tokens = golden["special_ids"];
    EXPECT_EQ(tokenizer_->Decode(tokens, /*skip_special=*/false), golden["decoded"]);
    EXPECT_EQ(tokenizer_->Decode(tokens, /*skip_special=*/true), golden["skipped"]);
  }
  for (const auto& golden : golden_["sequences"]) {
    const Tokens tokens = golden["ids"];
    EXPECT_EQ(tokenizer_->Decode(tokens, /*skip_special=*/false), golden["decoded"]);
    EXPECT_EQ(tokenizer_->Decode(tokens, /*skip_special=*/true), golden["skipped"]);
  }
}

TEST_P(GoldenTokenizerTest, BytesOfTheTokensJoinToTheText) {
  for (const auto& golden : golden_["texts"]) {
    Utf8Assembler text;
    std::string joined;
    for (const TokenId token : golden["special_ids"].get<Tokens>()) {
      joined += text.Push(tokenizer_->TokenBytes(token));
    }
    EXPECT_EQ(joined, golden["decoded"]);
  }
}

TEST_P(GoldenTokenizerTest, ThreadsMayShareIt) {
  const nlohmann::json texts = golden_["texts"];
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (int& count : wrong) {
    threads.emplace_back([&] {
      for (const auto& golden : texts) {
        if (tokenizer_->Encode(golden["text"].get<std::string>()).value() !=
            golden["ids"].get<Tokens>()) {
          ++count;
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, testing::Each(0));
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, GoldenTokenizerTest,
                         testing::Values("byte_level", "split_nfc", "sentencepiece", "smollm2"),
                         [](const auto& test) { return test.param; });

TEST(TokenizerTest, KnowsSpecialTokens) {
  const auto tokenizer = GoldenTokenizer("byte_level");
  const TokenId end = tokenizer->TokenToId("<|im_end|>").value();
  EXPECT_TRUE(tokenizer->IsSpecial(end));
  EXPECT_EQ(tokenizer->TokenBytes(end), "<|im_end|>");
  // Added, but a part of the text.
  EXPECT_FALSE(tokenizer->IsSpecial(tokenizer->TokenToId("\u65e5\u672c").value()));
  EXPECT_FALSE(tokenizer->IsSpecial(tokenizer->TokenToId("a").value()));
  EXPECT_EQ(tokenizer->TokenToId("no such token"), std::nullopt);
}

TEST(TokenizerTest, IdsOutsideOfTheVocabularyHaveNoText) {
  const auto tokenizer = GoldenTokenizer("byte_level");
  EXPECT_EQ(tokenizer->vocabulary_size(), 602);
  for (const TokenId token : {-1, tokenizer->vocabulary_size(), 1 << 30}) {
    EXPECT_THAT(tokenizer->TokenBytes(token), IsEmpty());
    EXPECT_THAT(tokenizer->Decode(std::vector{token}, /*skip_special=*/false), IsEmpty());
    EXPECT_FALSE(tokenizer->IsSpecial(token));
  }
}

TEST(TokenizerTest, TextMustBeUtf8) {
  const auto tokenizer = GoldenTokenizer("byte_level");
  const auto tokens = tokenizer->Encode("ok \xC3(");
  EXPECT_EQ(tokens.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(tokens.status().message()), HasSubstr("not UTF-8"));
}

TEST(TokenizerTest, TextMayHoldZeroBytes) {
  const auto tokenizer = GoldenTokenizer("byte_level");
  const std::string text("a\0b", 3);
  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text).value(), true), text);
}

TEST(TokenizerTest, LoadSaysWhatIsWrong) {
  const auto missing = Tokenizer::Load("tests/engine/text");
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("tokenizer.json"));
  const auto broken = Tokenizer::FromJson("{\"model\": 3}");
  EXPECT_EQ(broken.status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace mayfly
