#include "engine/base/utf8.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace mayfly {
namespace {

const char kReplaced[] = "\uFFFD";

std::string Assemble(const std::vector<std::string>& pieces) {
  Utf8Assembler assembler;
  std::string text;
  for (const std::string& piece : pieces) {
    const std::string part = assembler.Push(piece);
    EXPECT_TRUE(IsValidUtf8(part));
    text += part;
  }
  return text + assembler.Flush();
}

TEST(Utf8Test, TellsValidFromInvalid) {
  EXPECT_TRUE(IsValidUtf8(""));
  EXPECT_TRUE(IsValidUtf8("a\u00e9\u65e5\U0001F600\U0010FFFF"));
  EXPECT_TRUE(IsValidUtf8(std::string("\0", 1)));
  for (const char* invalid : {"\x80", "\xC3", "\xC0\x80", "\xE0\x80\x80", "\xED\xA0\x80",
                              "\xF4\x90\x80\x80", "\xF0\x9F\x98", "\xFF"}) {
    EXPECT_FALSE(IsValidUtf8(invalid));
  }
}

TEST(Utf8AssemblerTest, HoldsAnUnfinishedCharacterBack) {
  Utf8Assembler assembler;
  EXPECT_EQ(assembler.Push("a\xF0\x9F"), "a");
  EXPECT_EQ(assembler.Push("\x98"), "");
  EXPECT_EQ(assembler.Push("\x80z"), "\U0001F600z");
  EXPECT_EQ(assembler.Flush(), "");
}

TEST(Utf8AssemblerTest, EveryMaximalPartOfACharacterIsReplacedOnce) {
  // Unicode 15, table 3-8, and the cases around it.
  EXPECT_EQ(Assemble({"\x61\xF1\x80\x80\xE1\x80\xC2\x62\x80\x63\x80\xBF\x64"}),
            std::string("a") + kReplaced + kReplaced + kReplaced + "b" + kReplaced + "c" +
                kReplaced + kReplaced + "d");
  EXPECT_EQ(Assemble({"\xED\xA0\x80"}), std::string(kReplaced) + kReplaced + kReplaced);
  EXPECT_EQ(Assemble({"\xC0\xAF"}), std::string(kReplaced) + kReplaced);
  EXPECT_EQ(Assemble({"\xE6\x97"}), kReplaced);
}

TEST(Utf8AssemblerTest, TheCutsChangeNothing) {
  const std::string bytes = "a\xE6\x97\xA5\xF0\x9F\x98\x80\xF0\x9F\xC3\xA9\xED\xA0\x80z\xF4\x8F";
  const std::string whole = Assemble({bytes});
  for (size_t i = 0; i <= bytes.size(); ++i) {
    for (size_t j = i; j <= bytes.size(); ++j) {
      EXPECT_EQ(Assemble({bytes.substr(0, i), bytes.substr(i, j - i), bytes.substr(j)}), whole);
    }
  }
}

TEST(Utf8Test, FindsAnUnfinishedCharacterAtTheEnd) {
  EXPECT_EQ(IncompleteUtf8Suffix(""), 0u);
  EXPECT_EQ(IncompleteUtf8Suffix("abc"), 0u);
  EXPECT_EQ(IncompleteUtf8Suffix("ab\xC3"), 1u);
  EXPECT_EQ(IncompleteUtf8Suffix("\xF0\x9F\x98"), 3u);
  EXPECT_EQ(IncompleteUtf8Suffix("\xF0\x9F\x98\x80"), 0u);
  EXPECT_EQ(IncompleteUtf8Suffix("\xE0\x80"), 0u);
  EXPECT_EQ(IncompleteUtf8Suffix("\x80\x80"), 0u);
}

}  // namespace
}  // namespace mayfly
