#include "engine/text/stop_matcher.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace mayfly {
namespace {

TEST(StopMatcherTest, WithoutStopsTextPassesAtOnce) {
  StopMatcher matcher({""});
  EXPECT_EQ(matcher.Push("abc"), "abc");
  EXPECT_EQ(matcher.Flush(), "");
  EXPECT_FALSE(matcher.match().has_value());
}

TEST(StopMatcherTest, FindsAStopInsideOnePiece) {
  StopMatcher matcher({"END"});
  EXPECT_EQ(matcher.Push("so END it"), "so ");
  EXPECT_EQ(matcher.match()->stop, 0u);
  EXPECT_EQ(matcher.match()->push, 0);
  EXPECT_EQ(matcher.Push("more"), "");
  EXPECT_EQ(matcher.Flush(), "");
}

TEST(StopMatcherTest, FindsAStopAcrossPiecesAndNamesTheLast) {
  StopMatcher matcher({"nothing", "\n\nUser:"});
  EXPECT_EQ(matcher.Push("hi\n"), "hi");
  EXPECT_EQ(matcher.Push("\nUs"), "");
  EXPECT_EQ(matcher.Push("er"), "");
  EXPECT_FALSE(matcher.match().has_value());
  EXPECT_EQ(matcher.Push(": and"), "");
  EXPECT_EQ(matcher.match()->stop, 1u);
  EXPECT_EQ(matcher.match()->push, 3);
}

TEST(StopMatcherTest, ReturnsTheStartOfAStopThatDoesNotCome) {
  StopMatcher matcher({"aab"});
  EXPECT_EQ(matcher.Push("xa"), "x");
  EXPECT_EQ(matcher.Push("a"), "");
  // "aa" still may be a start: only the oldest letter is safe.
  EXPECT_EQ(matcher.Push("a"), "a");
  EXPECT_EQ(matcher.Push("c"), "aac");
  EXPECT_EQ(matcher.Push("a"), "");
  EXPECT_EQ(matcher.Flush(), "a");
}

TEST(StopMatcherTest, TheStopThatIsCompleteFirstWins) {
  StopMatcher matcher({"bcde", "cd"});
  EXPECT_EQ(matcher.Push("abcde"), "ab");
  EXPECT_EQ(matcher.match()->stop, 1u);
}

TEST(StopMatcherTest, OfStopsThatEndTogetherTheLongestWins) {
  StopMatcher matcher({"c", "abc", "bc"});
  EXPECT_EQ(matcher.Push("xabc"), "x");
  EXPECT_EQ(matcher.match()->stop, 1u);
}

TEST(StopMatcherTest, TheCutsChangeNothing) {
  std::mt19937 random(1);
  const std::vector<std::string> stops = {"aba", "bbab", "caac"};
  for (int round = 0; round < 500; ++round) {
    std::string text;
    for (int i = 0; i < 24; ++i) text += static_cast<char>('a' + random() % 3);
    StopMatcher whole(stops);
    std::string expected = whole.Push(text);
    expected += whole.Flush();

    StopMatcher matcher(stops);
    std::string out;
    for (size_t begin = 0; begin < text.size();) {
      const size_t size = std::min<size_t>(1 + random() % 5, text.size() - begin);
      out += matcher.Push(text.substr(begin, size));
      begin += size;
    }
    out += matcher.Flush();
    EXPECT_EQ(out, expected) << text;
    ASSERT_EQ(matcher.match().has_value(), whole.match().has_value()) << text;
    if (whole.match().has_value()) {
      EXPECT_EQ(matcher.match()->stop, whole.match()->stop) << text;
    }
  }
}

}  // namespace
}  // namespace mayfly
