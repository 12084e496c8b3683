#include "client/document.h"

#include <fstream>
#include <sstream>

#include "gtest/gtest.h"

namespace mayfly::cli {
namespace {

TEST(DocumentTest, ShortTextIsOnePiece) {
  EXPECT_EQ(FirstPiece("a b", 3), "a b");
  EXPECT_EQ(FirstPiece("", 3), "");
}

TEST(DocumentTest, PiecesEndBeforeWhiteSpace) {
  EXPECT_EQ(FirstPiece("one two three", 9), "one two");
  EXPECT_EQ(FirstPiece("one two three", 7), "one two");
  EXPECT_EQ(FirstPiece("one two three", 6), "one");
}

TEST(DocumentTest, ARunOfWhiteSpaceStaysWhole) { EXPECT_EQ(FirstPiece("one \n\n two", 6), "one"); }

TEST(DocumentTest, ALineBreakNearTheEndIsPreferred) {
  EXPECT_EQ(FirstPiece("one two three\nfour five", 20), "one two three");
  EXPECT_EQ(FirstPiece("a\none two three four", 15), "a\none two three");
}

TEST(DocumentTest, NoPieceCutsACharacter) {
  EXPECT_EQ(FirstPiece("ääää", 5), "ää");
  EXPECT_EQ(FirstPiece("😀😀", 2), "😀");
}

TEST(DocumentTest, PiecesJoinedAreTheText) {
  const std::string text =
      "Thessaly! Ten minutes\n\n for  “refreshments”\ncalled out\t the brisk 😀";
  for (size_t size = 1; size <= text.size(); ++size) {
    std::string joined;
    for (absl::string_view rest = text; !rest.empty();) {
      const absl::string_view piece = FirstPiece(rest, size);
      ASSERT_FALSE(piece.empty());
      EXPECT_FALSE(FirstInvalidUtf8(piece).has_value()) << size;
      joined += std::string(piece);
      rest.remove_prefix(piece.size());
    }
    EXPECT_EQ(joined, text);
  }
}

TEST(DocumentTest, FindsTheFirstByteThatIsNotUtf8) {
  EXPECT_FALSE(FirstInvalidUtf8("plain, ä, €, 😀").has_value());
  EXPECT_EQ(FirstInvalidUtf8("ab\xff"), 2);
  EXPECT_EQ(FirstInvalidUtf8("a\xc3"), 1);             // cut short
  EXPECT_EQ(FirstInvalidUtf8("\xc0\xaf"), 0);          // overlong
  EXPECT_EQ(FirstInvalidUtf8("\xe0\x80\xaf"), 0);      // overlong
  EXPECT_EQ(FirstInvalidUtf8("\xed\xa0\x80"), 0);      // surrogate
  EXPECT_EQ(FirstInvalidUtf8("\xf4\x90\x80\x80"), 0);  // above U+10FFFF
  EXPECT_EQ(FirstInvalidUtf8("\xf8\x88\x80\x80\x80"), 0);
}

TEST(DocumentTest, ReadsStandardInput) {
  std::istringstream in("from a pipe");
  EXPECT_EQ(*ReadDocument("-", in), "from a pipe");
}

TEST(DocumentTest, RefusesWhatCannotBeRead) {
  std::istringstream in;
  EXPECT_EQ(ReadDocument("/nowhere/book.txt", in).status().message(),
            "cannot read /nowhere/book.txt: No such file or directory");
  EXPECT_EQ(ReadDocument("/tmp", in).status().message(), "cannot read /tmp: it is a directory");
  EXPECT_EQ(ReadDocument("-", in).status().message(), "standard input is empty");
  std::istringstream binary("ab\xff");
  EXPECT_EQ(ReadDocument("-", binary).status().message(),
            "standard input is not UTF-8 text: byte 2 does not fit");
}

}  // namespace
}  // namespace mayfly::cli
