#include "engine/text/incremental_decoder.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/text/goldens.h"

namespace mayfly {
namespace {

using Tokens = std::vector<TokenId>;

std::string DecodeOneByOne(const Tokenizer& tokenizer, const Tokens& tokens, bool skip_special) {
  IncrementalDecoder decoder(&tokenizer, skip_special);
  std::string text;
  for (const TokenId token : tokens) {
    const std::string part = decoder.Push(token);
    EXPECT_TRUE(IsValidUtf8(part));
    text += part;
  }
  return text + decoder.Flush();
}

class IncrementalDecoderTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    tokenizer_ = GoldenTokenizer(GetParam());
    if (tokenizer_ == nullptr) GTEST_SKIP() << "the default model is not set up";
    golden_ = ReadGolden(GetParam() + ".golden.json");
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  nlohmann::json golden_;
};

TEST_P(IncrementalDecoderTest, PartsJoinToTheDecodedWhole) {
  for (const auto& golden : golden_["texts"]) {
    const Tokens tokens = golden["special_ids"];
    EXPECT_EQ(DecodeOneByOne(*tokenizer_, tokens, false), golden["decoded"]);
    EXPECT_EQ(DecodeOneByOne(*tokenizer_, tokens, true), golden["skipped"]);
  }
}

TEST_P(IncrementalDecoderTest, BrokenCharactersAreReplacedAsInTheWhole) {
  for (const auto& golden : golden_["sequences"]) {
    const Tokens tokens = golden["ids"];
    for (const bool skip_special : {false, true}) {
      const std::string whole = golden[skip_special ? "skipped" : "decoded"];
      const std::string parts = DecodeOneByOne(*tokenizer_, tokens, skip_special);
      // Byte fallback judges a run of bytes as a whole: what follows decides about what is out
      // already.
      const bool known_only_later =
          !tokenizer_->joins_bytes() && whole.find(kReplacementCharacter) != std::string::npos;
      if (!known_only_later) {
        EXPECT_EQ(parts, whole);
      }
    }
  }
}

TEST_P(IncrementalDecoderTest, WhatIsCutOffAnywhereGoesOnWhereItWas) {
  for (const auto& golden : golden_["texts"]) {
    const Tokens tokens = golden["special_ids"];
    for (size_t cut = 0; cut <= tokens.size(); ++cut) {
      const auto middle = tokens.begin() + static_cast<std::ptrdiff_t>(cut);
      IncrementalDecoder before(tokenizer_.get(), false);
      std::string text;
      for (auto token = tokens.begin(); token != middle; ++token) text += before.Push(*token);
      IncrementalDecoder after(tokenizer_.get(), false, {tokens.begin(), middle});
      for (auto token = middle; token != tokens.end(); ++token) text += after.Push(*token);
      EXPECT_EQ(text + after.Flush(), golden["decoded"]) << "cut at " << cut;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tokenizers, IncrementalDecoderTest,
                         testing::Values("byte_level", "split_nfc", "sentencepiece", "smollm2"),
                         [](const auto& test) { return test.param; });

TEST(IncrementalDecoderTest, HoldsBytesBackUntilTheCharacterIsWhole) {
  for (const char* name : {"byte_level", "sentencepiece"}) {
    const auto tokenizer = GoldenTokenizer(name);
    const Tokens tokens = tokenizer->Encode("x\U0001F600").value();
    ASSERT_GE(tokens.size(), 5u);
    IncrementalDecoder decoder(tokenizer.get());
    std::string before;
    for (size_t i = 0; i + 1 < tokens.size(); ++i) before += decoder.Push(tokens[i]);
    EXPECT_EQ(before, "x") << name;
    EXPECT_EQ(decoder.Push(tokens.back()), "\U0001F600") << name;
    EXPECT_EQ(decoder.Flush(), "");
  }
}

TEST(IncrementalDecoderTest, AnUnfinishedCharacterAtTheEndIsReplaced) {
  const auto tokenizer = GoldenTokenizer("byte_level");
  Tokens tokens = tokenizer->Encode("\U0001F600").value();
  tokens.pop_back();
  EXPECT_EQ(DecodeOneByOne(*tokenizer, tokens, true), "\uFFFD");
}

TEST(IncrementalDecoderTest, BrokenBytesAreNotHeldBackForEver) {
  const auto tokenizer = GoldenTokenizer("sentencepiece");
  const TokenId byte = tokenizer->TokenToId("<0x80>").value();
  IncrementalDecoder decoder(tokenizer.get());
  for (int i = 0; i < 10; ++i) EXPECT_EQ(decoder.Push(byte), "\uFFFD");
}

TEST(IncrementalDecoderTest, CharactersAlreadyReturnedStandWhenTheBytesAfterThemAreBroken) {
  const auto tokenizer = GoldenTokenizer("sentencepiece");
  Tokens tokens;
  for (const char* name : {"<0xC3>", "<0xA9>", "<0xFF>"}) {
    tokens.push_back(tokenizer->TokenToId(name).value());
  }
  EXPECT_EQ(DecodeOneByOne(*tokenizer, tokens, true), "\u00e9\uFFFD");
}

TEST(IncrementalDecoderTest, AWordKeepsItsSpaceAfterAContext) {
  const auto tokenizer = GoldenTokenizer("sentencepiece");
  const Tokens tokens = tokenizer->Encode("the men").value();
  for (size_t cut = 1; cut < tokens.size(); ++cut) {
    const std::span<const TokenId> all(tokens);
    IncrementalDecoder decoder(tokenizer.get(), true, all.first(cut));
    std::string text = tokenizer->Decode(all.first(cut), true);
    for (const TokenId token : all.subspan(cut)) text += decoder.Push(token);
    EXPECT_EQ(text + decoder.Flush(), "the men");
  }
}

TEST(IncrementalDecoderTest, SkippedTokensLeaveNoTrace) {
  for (const char* name : {"byte_level", "sentencepiece"}) {
    const auto tokenizer = GoldenTokenizer(name);
    const TokenId special = tokenizer->TokenToId("<s>").value();
    Tokens tokens;
    const Tokens plain = tokenizer->Encode("the \u65e5 men").value();
    for (const TokenId token : plain) {
      tokens.insert(tokens.end(), {token, special});
    }
    EXPECT_EQ(DecodeOneByOne(*tokenizer, tokens, true), "the \u65e5 men") << name;
  }
}

}  // namespace
}  // namespace mayfly
