#include "session/outbox.h"

#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

SessionEvent Event(uint64_t request_id) { return {request_id, ErrorEvent{}}; }

TEST(OutboxTest, EventsComeOutInOrderAndTheFinalStatusLast) {
  Outbox outbox(8, nullptr);
  outbox.Put(Event(1));
  outbox.Put(Event(2));
  outbox.Finish(absl::AbortedError("over"));
  EXPECT_EQ(outbox.Take().event->request_id, 1u);
  EXPECT_EQ(outbox.Take().event->request_id, 2u);
  const Outbox::Item last = outbox.Take();
  EXPECT_FALSE(last.event);
  EXPECT_THAT(*last.final_status, HasCode(absl::StatusCode::kAborted));
}

TEST(OutboxTest, NothingIsAddedAfterTheFirstFinish) {
  Outbox outbox(8, nullptr);
  outbox.Finish(absl::OkStatus());
  outbox.Put(Event(1));
  outbox.Finish(absl::AbortedError("later"));
  EXPECT_THAT(*outbox.Take().final_status, IsOk());
}

TEST(OutboxTest, WakesTheReaderOnceUntilItFindsNothingAgain) {
  int wakes = 0;
  Outbox outbox(8, [&] { ++wakes; });
  outbox.Notify();
  EXPECT_EQ(wakes, 0) << "there is nothing to take";
  outbox.Put(Event(1));
  EXPECT_EQ(wakes, 0) << "putting calls nothing back";
  outbox.Notify();
  outbox.Put(Event(2));
  outbox.Notify();
  EXPECT_EQ(wakes, 1);
  outbox.Take();
  outbox.Take();
  EXPECT_FALSE(outbox.Take().event);
  outbox.Finish(absl::OkStatus());
  outbox.Notify();
  EXPECT_EQ(wakes, 2);
}

TEST(OutboxTest, CountsItsRoomAndNeverRefuses) {
  Outbox outbox(2, nullptr);
  EXPECT_EQ(outbox.room(), 2u);
  for (int i = 0; i < 3; ++i) outbox.Put(Event(i));
  EXPECT_EQ(outbox.room(), 0u);
  for (uint64_t i = 0; i < 3; ++i) EXPECT_EQ(outbox.Take().event->request_id, i);
  EXPECT_EQ(outbox.room(), 2u);
}

TEST(OutboxTest, ALargeEventTakesAPlaceForEveryFewKilobytes) {
  Outbox outbox(4, nullptr);
  AppendedEvent large;
  large.token_logprobs.resize(2 * Outbox::kPlaceBytes / sizeof(float));
  outbox.Put({1, large});
  EXPECT_EQ(outbox.room(), 1u);
  DeltaEvent delta;
  delta.delta.text = std::string(Outbox::kPlaceBytes, 'x');
  outbox.Put({2, delta});
  EXPECT_EQ(outbox.room(), 0u);
  outbox.Take();
  EXPECT_EQ(outbox.room(), 2u);
  outbox.Take();
  EXPECT_EQ(outbox.room(), 4u);
}

TEST(OutboxTest, EventsOfAllOutboxesAreCounted) {
  Gauge held;
  {
    Outbox one(4, nullptr, &held), two(4, nullptr, &held), three(4, nullptr, &held);
    for (int i = 0; i < 2; ++i) {
      for (Outbox* outbox : {&one, &two, &three}) outbox->Put(Event(i));
    }
    EXPECT_EQ(held.value(), 6);
    one.Take();
    EXPECT_EQ(one.taken(), 1u);
    EXPECT_EQ(held.value(), 5);
    two.Abandon();
    EXPECT_EQ(held.value(), 3);
  }
  EXPECT_EQ(held.value(), 0);
}

TEST(OutboxTest, WhatIsDiscardedIsNotReadAndWhatComesAfterIs) {
  Outbox outbox(2, nullptr);
  outbox.Put(Event(1));
  outbox.Put(Event(2));
  outbox.Discard();
  EXPECT_EQ(outbox.room(), 2u);
  outbox.Put(Event(3));
  outbox.Finish(absl::ResourceExhaustedError("too slow"));
  EXPECT_EQ(outbox.Take().event->request_id, 3u);
  EXPECT_THAT(*outbox.Take().final_status, HasCode(absl::StatusCode::kResourceExhausted));
}

TEST(OutboxTest, SaysThatThereIsRoomAgainOnceHalfOfItIsBack) {
  int calls = 0;
  Outbox outbox(4, nullptr);
  outbox.OnRoom([&] { ++calls; });
  for (int i = 0; i < 3; ++i) outbox.Put(Event(i));
  outbox.Take();
  EXPECT_EQ(calls, 0) << "it was never full";
  outbox.Put(Event(3));
  outbox.Put(Event(4));
  outbox.Take();
  EXPECT_EQ(calls, 0);
  outbox.Take();
  EXPECT_EQ(calls, 1);
  outbox.Take();
  EXPECT_EQ(calls, 1);
}

TEST(OutboxTest, AnAbandonedOutboxHoldsNothingAndWakesNobody) {
  int wakes = 0;
  Outbox outbox(1, [&] { ++wakes; });
  outbox.Put(Event(1));
  outbox.Abandon();
  outbox.Put(Event(2));
  outbox.Finish(absl::OkStatus());
  outbox.Notify();
  EXPECT_EQ(wakes, 0);
  EXPECT_FALSE(outbox.Take().event);
  EXPECT_EQ(outbox.room(), 1u) << "a vanished client holds nobody up";
}

}  // namespace
}  // namespace mayfly
