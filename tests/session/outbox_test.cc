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
