#include "session/session_manager.h"

#include <set>

#include "tests/session/session_fixture.h"

namespace mayfly {
namespace {

using absl::StatusCode;
using testing::AllOf;
using testing::HasSubstr;
using testing::SizeIs;

class SessionManagerTest : public SessionFixture {
 protected:
  static SessionManager::Options Limited() {
    SessionManager::Options options;
    options.limits.max_sessions_per_tenant = 1;
    options.limits.idle_timeout_seconds = 60;
    options.limits.max_session_age_seconds = 600;
    options.default_adaptation.epochs = 2;
    options.default_sampling.temperature = 0.75;
    return options;
  }
  SessionManagerTest() : SessionFixture(Limited()) {}
};

TEST_F(SessionManagerTest, ClosingTheStreamFreesItsRowAndForgetsTheSession) {
  SessionClient client(&manager_);
  Open(client);
  EXPECT_EQ(manager_.open_sessions(), 1);
  EXPECT_EQ(engine_.free_rows(), 1);
  client.Close();
  Run(client);
  EXPECT_EQ(manager_.open_sessions(), 0);
  EXPECT_EQ(engine_.free_rows(), 2);
}

TEST_F(SessionManagerTest, ATenantBeyondItsLimitIsRefusedUntilOneOfItsSessionsEnds) {
  SessionClient first(&manager_, "a"), second(&manager_, "a"), other(&manager_, "b");
  Open(first);
  second.Send(SmallChunks());
  Run(second);
  EXPECT_THAT(*second.final_status(),
              StatusIs(StatusCode::kResourceExhausted, HasSubstr("max_sessions_per_tenant is 1")));
  EXPECT_EQ(metrics_.rejected_quota.value(), 1u);
  Open(other);
  first.Close();
  Run(first);
  SessionClient third(&manager_, "a");
  Open(third);
}

TEST_F(SessionManagerTest, AnOpenThatFindsNoRowGivesItsTenantsPlaceBack) {
  SessionClient a(&manager_, "a"), b(&manager_, "b"), c(&manager_, "c");
  Open(a);
  Open(b);
  c.Send(SmallChunks());
  Run(c);
  ASSERT_THAT(*c.final_status(), HasCode(StatusCode::kResourceExhausted));
  a.Close();
  Run(a);
  SessionClient again(&manager_, "c");
  Open(again);
}

TEST_F(SessionManagerTest, DrainTellsOpenSessionsAndAdmitsNoMore) {
  SessionClient open(&manager_, "a"), idle(&manager_, "b");
  Open(open);
  manager_.StartDrain(1234.5);
  manager_.StartDrain(9999);
  EXPECT_TRUE(manager_.draining());
  SessionClient late(&manager_, "c");
  late.Send(SmallChunks());
  Run(open);
  late.ReadAll();
  idle.ReadAll();
  const auto told = open.All<DrainingEvent>();
  ASSERT_THAT(told, SizeIs(1));
  EXPECT_EQ(told[0].deadline_unix_seconds, 1234.5);
  EXPECT_THAT(*late.final_status(), StatusIs(StatusCode::kUnavailable, HasSubstr("draining")));
  EXPECT_THAT(*idle.final_status(), HasCode(StatusCode::kUnavailable));
  EXPECT_EQ(metrics_.rejected_draining.value(), 1u);

  const uint64_t id = open.Append("still served");
  Run(open);
  EXPECT_THAT(open.All<AppendedEvent>(id), SizeIs(1));
}

TEST_F(SessionManagerTest, ASessionThatIsOpeningWhenTheDrainStartsIsToldOnceItIsOpen) {
  SessionClient client(&manager_);
  client.Send(SmallChunks());
  manager_.StartDrain(1);
  Run(client);
  EXPECT_THAT(client.All<OpenedEvent>(), SizeIs(1));
  EXPECT_THAT(client.All<DrainingEvent>(), SizeIs(1));
}

TEST_F(SessionManagerTest, EndAllEndsEverySessionUnavailable) {
  SessionClient a(&manager_, "a"), b(&manager_, "b");
  Open(a);
  manager_.EndAll();
  Run(a);
  b.ReadAll();
  EXPECT_THAT(*a.final_status(), HasCode(StatusCode::kUnavailable));
  EXPECT_THAT(*b.final_status(), HasCode(StatusCode::kUnavailable));
  EXPECT_EQ(manager_.open_sessions(), 0);
}

TEST_F(SessionManagerTest, AnIdleSessionExpiresAndABusyOneDoesNot) {
  SessionClient idle(&manager_, "a"), busy(&manager_, "b");
  Open(idle);
  Open(busy);
  clock_.Advance(59);
  manager_.ExpireSessions();
  busy.Append("work that no step has done yet");
  clock_.Advance(2);
  manager_.ExpireSessions();
  Run(idle);
  Run(busy);
  EXPECT_THAT(*idle.final_status(),
              StatusIs(StatusCode::kAborted, HasSubstr("idle_timeout, 60 seconds")));
  EXPECT_FALSE(busy.final_status());
  EXPECT_EQ(metrics_.closed[static_cast<size_t>(CloseReason::kIdle)].value(), 1u);
}

TEST_F(SessionManagerTest, AStreamThatNeverOpensExpiresToo) {
  SessionClient client(&manager_);
  clock_.Advance(61);
  manager_.ExpireSessions();
  client.ReadAll();
  EXPECT_THAT(*client.final_status(), HasCode(StatusCode::kAborted));
}

TEST_F(SessionManagerTest, ASessionBeyondItsAgeExpiresEvenWhenBusy) {
  SessionClient client(&manager_);
  Open(client);
  for (int i = 0; i < 601; ++i) {
    client.Append("x");
    clock_.Advance(1);
    manager_.ExpireSessions();
    Run(client);
  }
  EXPECT_THAT(*client.final_status(),
              StatusIs(StatusCode::kAborted, HasSubstr("max_session_age, 600 seconds")));
}

TEST_F(SessionManagerTest, TheServersDefaultsApplyToSessionsThatWishForNothing) {
  FakeEngine big({.window_tokens = 4096});
  SessionManager manager(Limited(), &big, &clock_, &log_, &metrics_);
  EXPECT_EQ(manager.DefaultAdaptation().epochs, 2);
  EXPECT_EQ(manager.DefaultSampling().temperature, 0.75);
  SessionClient client(&manager);
  client.Send(OpenCommand{});
  big.RunUntilIdle();
  client.ReadAll();
  ASSERT_THAT(client.All<OpenedEvent>(), SizeIs(1));
  EXPECT_EQ(client.All<OpenedEvent>()[0].adaptation.epochs, 2);
  EXPECT_EQ(client.All<OpenedEvent>()[0].sampling.temperature, 0.75);
  client.Close();
  big.RunUntilIdle();
}

TEST_F(SessionManagerTest, SessionIdsAreLongAndDiffer) {
  SessionManager manager({}, &engine_, &clock_, &log_, &metrics_);
  std::set<std::string> ids;
  for (int i = 0; i < 100; ++i) {
    const auto session = manager.Create({}, nullptr);
    EXPECT_THAT(session->id(), SizeIs(32));
    ids.insert(session->id());
  }
  EXPECT_THAT(ids, SizeIs(100));
}

}  // namespace
}  // namespace mayfly
