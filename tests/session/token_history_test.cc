#include "session/token_history.h"

#include "gtest/gtest.h"

namespace mayfly {
namespace {

TEST(TokenHistoryTest, PositionsGoOnCountingWhenOldTokensAreDropped) {
  TokenHistory history;
  for (TokenId id = 0; id < 10; ++id) history.Append({.id = id});
  history.DropBefore(7);
  EXPECT_EQ(history.begin(), 7u);
  EXPECT_EQ(history.end(), 10u);
  EXPECT_EQ(history.at(8).id, 8);
}

TEST(TokenHistoryTest, DroppingStopsAtTheNewestToken) {
  TokenHistory history;
  history.Append({.id = 1});
  history.DropBefore(100);
  EXPECT_EQ(history.begin(), 1u);
  EXPECT_EQ(history.end(), 1u);
}

TEST(TokenHistoryTest, WhatWasNotMeasuredIsNotANumberUntilItIs) {
  TokenHistory history;
  history.Append({.id = 1});
  EXPECT_TRUE(std::isnan(history.at(0).base_logprob));
  history.SetBaseLogprob(0, -2.0f);
  EXPECT_EQ(history.at(0).base_logprob, -2.0f);
}

}  // namespace
}  // namespace mayfly
