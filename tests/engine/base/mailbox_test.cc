#include "engine/base/mailbox.h"

#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mayfly {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(MailboxTest, MessagesComeOutInTheOrderInWhichTheyWentIn) {
  Mailbox<int> mailbox(10);
  for (const int i : {1, 2, 3}) EXPECT_TRUE(mailbox.Post(i));
  EXPECT_THAT(mailbox.TakeAll(), ElementsAre(1, 2, 3));
  EXPECT_THAT(mailbox.TakeAll(), IsEmpty());
}

TEST(MailboxTest, AFullMailboxRefusesUntilSomethingIsTaken) {
  Mailbox<int> mailbox(2);
  EXPECT_TRUE(mailbox.Post(1));
  EXPECT_TRUE(mailbox.Post(2));
  EXPECT_FALSE(mailbox.Post(3));
  EXPECT_THAT(mailbox.TakeAll(), ElementsAre(1, 2));
  EXPECT_TRUE(mailbox.Post(4));
}

TEST(MailboxTest, WhatGivesSomethingBackIsTakenPastTheCapacity) {
  Mailbox<int> mailbox(1);
  EXPECT_TRUE(mailbox.Post(1));
  mailbox.PostUnbounded(2);
  EXPECT_FALSE(mailbox.Post(3));
  EXPECT_THAT(mailbox.TakeAll(), ElementsAre(1, 2));
}

TEST(MailboxTest, AClosedMailboxTakesNothingButHandsOutWhatWaits) {
  Mailbox<int> mailbox(10);
  EXPECT_TRUE(mailbox.Post(1));
  EXPECT_FALSE(mailbox.closed());
  mailbox.Close();
  EXPECT_TRUE(mailbox.closed());
  EXPECT_FALSE(mailbox.Post(2));
  mailbox.PostUnbounded(3);
  EXPECT_THAT(mailbox.WaitAndTakeAll(), ElementsAre(1));
  EXPECT_THAT(mailbox.WaitAndTakeAll(), IsEmpty());
}

TEST(MailboxTest, OwnershipMovesWithTheMessage) {
  Mailbox<std::unique_ptr<int>> mailbox(1);
  EXPECT_TRUE(mailbox.Post(std::make_unique<int>(7)));
  EXPECT_EQ(*mailbox.TakeAll().front(), 7);
}

TEST(MailboxTest, ClosingWakesAnOwnerThatWaits) {
  Mailbox<int> mailbox(1);
  std::thread owner([&] { EXPECT_THAT(mailbox.WaitAndTakeAll(), IsEmpty()); });
  mailbox.Close();
  owner.join();
}

TEST(MailboxTest, ManySendersLoseNothingAndKeepTheirOwnOrder) {
  constexpr int kSenders = 4, kMessages = 1000;
  Mailbox<std::pair<int, int>> mailbox(static_cast<size_t>(-1));
  std::vector<std::thread> senders;
  for (int sender = 0; sender < kSenders; ++sender) {
    senders.emplace_back([&mailbox, sender] {
      for (int i = 0; i < kMessages; ++i) ASSERT_TRUE(mailbox.Post({sender, i}));
    });
  }
  std::vector<int> next(kSenders, 0);
  for (int taken = 0; taken < kSenders * kMessages;) {
    for (const auto& [sender, i] : mailbox.WaitAndTakeAll()) {
      EXPECT_EQ(i, next[static_cast<size_t>(sender)]++);
      ++taken;
    }
  }
  for (std::thread& sender : senders) sender.join();
}

}  // namespace
}  // namespace mayfly
