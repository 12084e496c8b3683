// Who gets in and when, what a tenant may take, and what becomes of a client that does not read.

#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "session/retry_after.h"
#include "tests/session/session_fixture.h"

namespace mayfly {
namespace {

using absl::StatusCode;
using testing::AllOf;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

uint64_t Closed(const SessionMetrics& metrics, CloseReason reason) {
  return metrics.closed[static_cast<size_t>(reason)].value();
}

bool IsOpen(const SessionClient& client) { return client.All<OpenedEvent>().size() == 1; }

// ---- Waiting for a row ----------------------------------------------------------------------

// Two rows, both taken.
class AdmissionWaitTest : public SessionFixture {
 protected:
  static SessionManager::Options Waits() {
    SessionManager::Options options;
    options.limits.admission_wait_seconds = 30;
    options.limits.max_waiting_sessions = 4;
    options.limits.max_sessions_per_tenant = 3;
    options.limits.idle_timeout_seconds = 10;
    return options;
  }
  AdmissionWaitTest() : SessionFixture(Waits()) {
    Open(first_);
    Open(second_);
  }
  ~AdmissionWaitTest() override {
    EXPECT_EQ(metrics_.admission_waiting.value(), 0);
    EXPECT_EQ(metrics_.rejected_no_row.value(), 0u) << "the engine lacked a row";
  }

  std::unique_ptr<SessionClient> Wait(const std::string& tenant) {
    auto client = std::make_unique<SessionClient>(&manager_, tenant);
    client->Send(SmallChunks());
    Run(*client);
    EXPECT_THAT(client->events(), IsEmpty());
    return client;
  }
  void End(SessionClient& client) {
    client.Close();
    Run(client);
  }

  SessionClient first_{&manager_, "x"}, second_{&manager_, "y"};
};

TEST_F(AdmissionWaitTest, ARowThatComesFreeGoesToWhoHasWaitedForIt) {
  const auto waiter = Wait("a");
  EXPECT_EQ(metrics_.admission_waiting.value(), 1);
  clock_.Advance(7);
  End(first_);
  Run(*waiter);
  EXPECT_TRUE(IsOpen(*waiter));
  EXPECT_EQ(metrics_.admission_waiting.value(), 0);
  EXPECT_EQ(metrics_.admission_wait_seconds.sum(), 7);
  const uint64_t id = waiter->Append("hello");
  Run(*waiter);
  EXPECT_THAT(waiter->All<AppendedEvent>(id), SizeIs(1));
}

TEST_F(AdmissionWaitTest, TenantsTakeTurnsAndWithinATenantTheFirstComesFirst) {
  const auto a1 = Wait("a"), a2 = Wait("a"), a3 = Wait("a"), b = Wait("b");
  End(first_);
  Run(*a1);
  EXPECT_TRUE(IsOpen(*a1));
  End(second_);
  for (const auto* client : {&a2, &a3, &b}) Run(**client);
  EXPECT_TRUE(IsOpen(*b));
  EXPECT_FALSE(IsOpen(*a2));
  End(*a1);
  Run(*a2);
  EXPECT_TRUE(IsOpen(*a2));
  EXPECT_FALSE(IsOpen(*a3));
}

TEST_F(AdmissionWaitTest, ANewcomerDoesNotOvertakeThoseThatWait) {
  const auto waiter = Wait("a");
  first_.Close();
  // The row is free in the engine, and nobody has been told of it yet.
  while (engine_.free_rows() == 0) engine_.Step();
  SessionClient newcomer(&manager_, "b");
  newcomer.Send(SmallChunks());
  Run(*waiter);
  Run(newcomer);
  EXPECT_TRUE(IsOpen(*waiter));
  EXPECT_THAT(newcomer.events(), IsEmpty());
}

TEST_F(AdmissionWaitTest, WhoHasWaitedLongEnoughIsRefusedAndToldWhy) {
  const auto waiter = Wait("a");
  clock_.Advance(20);
  first_.Append("busy, so that it does not idle");
  second_.Append("so is this one");
  Run(first_);
  Run(second_);
  manager_.ExpireSessions();
  waiter->ReadAll();
  EXPECT_FALSE(waiter->final_status()) << "who waits for a row is not idle";
  EXPECT_EQ(manager_.SecondsToExpiry(), 1);
  clock_.Advance(9.75);
  EXPECT_NEAR(manager_.SecondsToExpiry(), 0.25, 1e-9) << "or it would wait for longer than it may";
  clock_.Advance(0.25);
  manager_.ExpireSessions();
  waiter->ReadAll();
  ASSERT_TRUE(waiter->final_status());
  EXPECT_THAT(*waiter->final_status(),
              StatusIs(StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("admission_wait, 30 seconds"), HasSubstr("2 rows"))));
  EXPECT_EQ(RetryAfterSeconds(*waiter->final_status()), 30) << "no row has come free yet";
  EXPECT_EQ(metrics_.rejected_wait.value(), 1u);
  EXPECT_EQ(Closed(metrics_, CloseReason::kNoRow), 1u);
}

TEST_F(AdmissionWaitTest, ARefusalForecastsTheNextRowFromThoseThatCameFree) {
  End(first_);
  for (int i = 0; i < 3; ++i) {
    SessionClient next(&manager_, "z");
    Open(next);
    clock_.Advance(4);
    End(next);
  }
  SessionClient last(&manager_, "z");
  Open(last);
  const auto a = Wait("a"), b = Wait("b");
  clock_.Advance(30);
  manager_.ExpireSessions();
  b->ReadAll();
  EXPECT_EQ(RetryAfterSeconds(*b->final_status()), 4);
}

TEST_F(AdmissionWaitTest, TooManyThatWaitAreRefusedAtOnce) {
  const auto a1 = Wait("a"), a2 = Wait("a"), b1 = Wait("b"), b2 = Wait("b");
  SessionClient fifth(&manager_, "c");
  fifth.Send(SmallChunks());
  fifth.ReadAll();
  EXPECT_THAT(*fifth.final_status(),
              StatusIs(StatusCode::kResourceExhausted, HasSubstr("max_waiting_sessions is 4")));
  EXPECT_TRUE(RetryAfterSeconds(*fifth.final_status()));
  EXPECT_EQ(metrics_.rejected_queue_full.value(), 1u);
}

TEST_F(AdmissionWaitTest, ThoseThatWaitCountAgainstTheirTenant) {
  const auto a1 = Wait("a"), a2 = Wait("a"), a3 = Wait("a");
  SessionClient fourth(&manager_, "a");
  fourth.Send(SmallChunks());
  fourth.ReadAll();
  EXPECT_THAT(*fourth.final_status(), HasCode(StatusCode::kResourceExhausted));
  EXPECT_EQ(metrics_.rejected_quota.value(), 1u);
  End(*a1);
  const auto again = Wait("a");
}

TEST_F(AdmissionWaitTest, AnyEndOfAWaiterTakesItOutOfTheQueue) {
  struct WayToEnd {
    CloseReason reason;
    std::function<void(SessionClient&)> end;
  };
  const WayToEnd ways[] = {
      {CloseReason::kClosed, [](SessionClient& client) { client.Close(); }},
      {CloseReason::kHalfClosed, [](SessionClient& client) { client.session().HalfClose(); }},
      {CloseReason::kCancelled,
       [](SessionClient& client) {
         client.session().outbox().Abandon();
         client.session().End(CloseReason::kCancelled, absl::CancelledError("gone"));
       }},
  };
  for (const WayToEnd& way : ways) {
    const auto leaving = Wait("a");
    way.end(*leaving);
    EXPECT_EQ(Closed(metrics_, way.reason), 1u);
    EXPECT_EQ(metrics_.admission_waiting.value(), 0);
  }
  const auto waiter = Wait("b");
  End(first_);
  Run(*waiter);
  EXPECT_TRUE(IsOpen(*waiter));
}

TEST_F(AdmissionWaitTest, AWaiterThatHasFinishedSendingStillGetsItsCommandsDone) {
  const auto waiter = Wait("a");
  const uint64_t id = waiter->Append("hello");
  waiter->session().HalfClose();
  End(first_);
  Run(*waiter);
  EXPECT_THAT(waiter->All<AppendedEvent>(id), SizeIs(1));
  EXPECT_THAT(*waiter->final_status(), IsOk());
}

TEST_F(AdmissionWaitTest, ADrainSendsThoseThatWaitAway) {
  const auto waiter = Wait("a");
  manager_.StartDrain(1);
  waiter->ReadAll();
  EXPECT_THAT(*waiter->final_status(), HasCode(StatusCode::kUnavailable));
  EXPECT_EQ(metrics_.rejected_draining.value(), 1u);
}

TEST_F(AdmissionWaitTest, AFailedEngineKeepsNobodyWaiting) {
  const auto a1 = Wait("a"), a2 = Wait("a"), b = Wait("b");
  engine_.FailDevice(absl::InternalError("gone"));
  Run(first_);
  for (const auto* client : {&a1, &a2, &b}) {
    (*client)->ReadAll();
    EXPECT_THAT(*(*client)->final_status(), HasCode(StatusCode::kUnavailable));
  }
}

// Random streams of four tenants on few rows: the engine never lacks a row for an admitted one, and
// no row stands free while somebody waits.
TEST(AdmissionWaitRandomTest, RowsAndWaitersMeet) {
  for (uint32_t seed = 0; seed < 1000; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    std::mt19937 random(seed);
    const auto between = [&](int least, int most) {
      return std::uniform_int_distribution<int>(least, most)(random);
    };
    FakeClock clock;
    FakeEngine engine({.rows = between(1, 3)});
    const Logger log(LogLevel::kError, LogFormat::kText);
    SessionMetrics metrics;
    SessionManager::Options options;
    options.limits.admission_wait_seconds = 5;
    options.limits.max_waiting_sessions = 6;
    SessionManager manager(options, &engine, &clock, &log, &metrics);
    std::vector<std::unique_ptr<SessionClient>> clients;
    for (int step = 0; step < 60; ++step) {
      const int kind = between(0, 9);
      if (kind < 4) {
        clients.push_back(std::make_unique<SessionClient>(&manager, std::to_string(between(0, 3))));
        OpenCommand open;
        open.adaptation.preset = Preset::kOff;
        clients.back()->Send(open);
      } else if (kind < 7 && !clients.empty()) {
        SessionClient& client = *clients[between(0, static_cast<int>(clients.size()) - 1)];
        between(0, 1) == 0 ? client.session().HalfClose() : static_cast<void>(client.Close());
      } else if (kind == 7) {
        clock.Advance(between(0, 3));
        manager.ExpireSessions();
      } else {
        for (int i = between(0, 5); i > 0; --i) engine.Step();
      }
      if (between(0, 3) > 0) continue;
      engine.RunUntilIdle();
      ASSERT_TRUE(metrics.admission_waiting.value() == 0 || engine.free_rows() == 0);
    }
    manager.EndAll();
    engine.RunUntilIdle();
    ASSERT_EQ(metrics.rejected_no_row.value(), 0u);
    ASSERT_EQ(metrics.admission_waiting.value(), 0);
    ASSERT_EQ(manager.open_sessions(), 0);
    ASSERT_EQ(engine.free_rows(), engine.info().rows);
  }
}

// Sessions that come, wait, leave and end on threads of their own.
TEST(AdmissionWaitThreadsTest, EverySessionEndsAndEveryRowIsFree) {
  SteadyClock clock;
  FakeEngine engine({.rows = 2});
  const Logger log(LogLevel::kError, LogFormat::kText);
  SessionMetrics metrics;
  SessionManager::Options options;
  options.limits.admission_wait_seconds = 60;
  SessionManager manager(options, &engine, &clock, &log, &metrics);
  engine.RunInBackground();
  std::vector<std::thread> clients;
  for (int i = 0; i < 4; ++i) {
    clients.emplace_back([&manager, i] {
      for (int round = 0; round < 200; ++round) {
        SessionClient client(&manager, std::to_string(i % 3));
        OpenCommand open;
        open.adaptation.preset = Preset::kOff;
        client.Send(open);
        if ((round + i) % 4 == 0) {
          client.session().End(CloseReason::kCancelled, absl::CancelledError("gone"));
        } else {
          client.Append("x");
          client.session().HalfClose();
        }
        while (!client.final_status()) {
          client.ReadAll();
          std::this_thread::yield();
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  engine.StopBackground();
  EXPECT_EQ(metrics.rejected_no_row.value(), 0u);
  EXPECT_EQ(metrics.admission_waiting.value(), 0);
  EXPECT_EQ(Closed(metrics, CloseReason::kHalfClosed), 600u);
  EXPECT_EQ(Closed(metrics, CloseReason::kCancelled), 200u);
}

// ---- Tokens of a tenant ---------------------------------------------------------------------

class TokenLimitTest : public SessionFixture {
 protected:
  static SessionManager::Options SixtyTokens() {
    SessionManager::Options options;
    options.limits.max_tokens_per_minute_per_tenant = 60;
    return options;
  }
  TokenLimitTest() : SessionFixture(SixtyTokens()) {}

  static testing::Matcher<absl::Status> NamesTheLimit() {
    return StatusIs(StatusCode::kResourceExhausted,
                    HasSubstr("max_tokens_per_minute_per_tenant is 60; try again in"));
  }
};

TEST_F(TokenLimitTest, CommandsAreRefusedOnceTheTokensAreUsedAndTheSessionLives) {
  SessionClient client(&manager_, "a");
  Open(client, Off());
  client.Append(std::string(40, 'x'));
  const uint64_t last = client.Generate(30);  // begins with tokens left, and is not cut
  Run(client);
  ASSERT_THAT(client.All<GeneratedEvent>(last), SizeIs(1));
  EXPECT_EQ(client.All<GeneratedEvent>(last)[0].usage.generated_tokens, 30u);

  const uint64_t generate = client.Generate(1), append = client.Append("x");
  Run(client);
  EXPECT_THAT(client.ErrorOf(generate), NamesTheLimit());
  EXPECT_THAT(client.ErrorOf(append), NamesTheLimit());
  EXPECT_EQ(RetryAfterSeconds(client.ErrorOf(generate)), 11) << "10 owed, and one to have";
  EXPECT_EQ(metrics_.token_quota_refused.value(), 2u);
  EXPECT_EQ(engine_.stream(0).size(), 70u);

  clock_.Advance(11);
  const uint64_t again = client.Generate(1);
  Run(client);
  EXPECT_THAT(client.All<GeneratedEvent>(again), SizeIs(1));
}

TEST_F(TokenLimitTest, ATenantsSessionsShareItsTokensAndOthersHaveTheirOwn) {
  SessionClient one(&manager_, "a"), other(&manager_, "b");
  Open(one, Off());
  Open(other, Off());
  one.Append(std::string(60, 'x'));
  Run(one);
  one.Close();
  Run(one);
  SessionClient two(&manager_, "a");
  Open(two, Off());
  const uint64_t refused = two.Append("x"), taken = other.Append("x");
  Run(two);
  Run(other);
  EXPECT_THAT(two.ErrorOf(refused), NamesTheLimit());
  EXPECT_THAT(other.All<AppendedEvent>(taken), SizeIs(1));
}

TEST_F(TokenLimitTest, AdaptingAndLearningCostNoTokens) {
  SessionClient client(&manager_, "a");
  Open(client);
  client.Append(std::string(60, 'x'));
  Run(client);
  const uint64_t adapt = client.Adapt(AdaptAction::kReset);
  Run(client);
  EXPECT_THAT(client.All<AdaptedEvent>(adapt), SizeIs(1));
  EXPECT_GT(client.All<UpdateEvent>().size(), 1u);
}

TEST_F(TokenLimitTest, ACommandThatCannotSucceedSaysSoFirst) {
  SessionClient client(&manager_, "a");
  Open(client, Off());
  client.Append(std::string(60, 'x'));
  Run(client);
  const uint64_t invalid = client.Generate(0);
  Run(client);
  EXPECT_THAT(client.ErrorOf(invalid), HasCode(StatusCode::kInvalidArgument));
}

// ---- A client that does not read ------------------------------------------------------------

class ReaderLimitTest : public SessionFixture {
 protected:
  static SessionManager::Options SmallOutbox() {
    SessionManager::Options options;
    options.limits.outbox_events = 8;
    options.limits.slow_reader_timeout_seconds = 60;
    options.limits.max_outstanding_commands = 4;
    return options;
  }
  ReaderLimitTest() : SessionFixture(SmallOutbox()) {}

  // Opens and lets a generation run against a reader that has stopped.
  void Stall(SessionClient& client) {
    Open(client, Off());
    client.Append("hello");
    Run(client);
    client.Generate(1000);
    engine_.RunUntilIdle();
    EXPECT_EQ(client.session().outbox().room(), 0u);
  }
};

TEST_F(ReaderLimitTest, ASlowReaderPausesItsOwnGenerationAndNobodyElses) {
  SessionClient slow(&manager_, "a"), quick(&manager_, "b");
  Stall(slow);
  const size_t stalled = engine_.stream(0).size();
  Open(quick, Off());
  quick.Append("hello");
  const uint64_t id = quick.Generate(40);
  Run(quick);
  EXPECT_THAT(quick.All<GeneratedEvent>(id), SizeIs(1));
  EXPECT_EQ(engine_.stream(0).size(), stalled);
  Run(slow);
  EXPECT_GT(engine_.stream(0).size(), stalled);
}

TEST_F(ReaderLimitTest, WhoTakesNothingForTooLongIsLetGoAndTheRowIsFree) {
  SessionClient client(&manager_, "a");
  Stall(client);
  manager_.ExpireSessions();
  clock_.Advance(59);
  manager_.ExpireSessions();
  EXPECT_EQ(engine_.free_rows(), 1);
  clock_.Advance(2);
  manager_.ExpireSessions();
  engine_.RunUntilIdle();
  EXPECT_EQ(engine_.free_rows(), 2);
  EXPECT_EQ(manager_.open_sessions(), 0);
  EXPECT_EQ(Closed(metrics_, CloseReason::kSlowReader), 1u);

  const size_t read = client.All<DeltaEvent>().size();
  client.ReadAll();
  EXPECT_EQ(client.All<DeltaEvent>().size(), read) << "what it left is not kept";
  ASSERT_THAT(client.All<ClosedEvent>(), SizeIs(1));
  EXPECT_EQ(client.All<ClosedEvent>()[0].reason, "slow_reader");
  EXPECT_EQ(client.All<ClosedEvent>()[0].freed_bytes, engine_.info().row_bytes.total());
  EXPECT_THAT(*client.final_status(), StatusIs(StatusCode::kResourceExhausted,
                                               HasSubstr("slow_reader_timeout, 60 seconds")));
}

TEST_F(ReaderLimitTest, WhoTakesOneEventNowAndThenStays) {
  SessionClient client(&manager_, "a");
  Stall(client);
  for (int i = 0; i < 20; ++i) {
    clock_.Advance(50);
    manager_.ExpireSessions();
    ASSERT_TRUE(client.ReadOne());
    engine_.RunUntilIdle();
  }
  EXPECT_FALSE(client.final_status());
}

TEST_F(ReaderLimitTest, AClientThatIsSilentButHasReadAllStays) {
  SessionClient client(&manager_, "a");
  Open(client, Off());
  for (int i = 0; i < 5; ++i) {
    clock_.Advance(100);
    manager_.ExpireSessions();
  }
  client.ReadAll();
  EXPECT_FALSE(client.final_status());
}

// A transport that reads no command while the outbox is full, and a client that sends without end.
TEST_F(ReaderLimitTest, WhateverIsSentAndNotReadTheOutboxStaysBounded) {
  SessionClient client(&manager_, "a");
  Open(client, Off());
  AppendCommand append;
  append.input = TextInput(std::string(40, 'x'));
  append.token_logprobs = true;
  for (int i = 0; i < 1000; ++i) {
    if (client.session().outbox().room() > 0) client.Cancel(999'999);
    if (client.session().outbox().room() > 0) client.Send(append);
    engine_.RunUntilIdle();
  }
  // Full; the running append's progress, which went on by one piece of a window of 64; and the
  // answers to the commands that one read brought.
  EXPECT_LE(metrics_.outbox_events.value(), 8 + 64 / 5 + 2);
  EXPECT_EQ(client.session().outbox().room(), 0u);
}

}  // namespace
}  // namespace mayfly
