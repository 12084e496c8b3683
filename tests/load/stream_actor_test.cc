// One session's script against a transport that the test plays, at times that the test sets.

#include "tests/load/stream_actor.h"

#include <deque>

#include "gmock/gmock.h"
#include "google/protobuf/text_format.h"
#include "gtest/gtest.h"
#include "tests/support/fake_clock.h"
#include "tests/support/status_matchers.h"

namespace mayfly::load {
namespace {

using ::testing::ElementsAre;
using ::testing::Pair;

// The server's end: keeps what was sent, and answers when the test says so.
struct FakeCall {
  std::deque<v1::SessionRequest> sent;
  SessionTransport::Events events;
  std::optional<double> deadline_seconds;
  int reads = 0;
  bool half_closed = false;
  bool vanished = false;
};

class FakeTransport final : public SessionTransport {
 public:
  explicit FakeTransport(FakeCall* call) : call_(call) {}

  void Send(v1::SessionRequest request) override { call_->sent.push_back(std::move(request)); }
  void HalfClose() override { call_->half_closed = true; }
  void ReadNext() override { ++call_->reads; }
  void Vanish() override { call_->vanished = true; }

 private:
  FakeCall* const call_;
};

class StreamActorTest : public ::testing::Test {
 protected:
  StreamActorTest() {
    world_ = {&clock_, &loop_, &recorder_,
              [this](std::optional<double> deadline, SessionTransport::Events events) {
                call_.events = std::move(events);
                call_.deadline_seconds = deadline;
                return std::make_unique<FakeTransport>(&call_);
              },
              [this](StreamActor*, TimePoint) { ended_ = true; }};
  }

  // Starts a session of this script now, which should have begun `late` seconds ago.
  void Start(const std::string& script, double late = 0) {
    const auto scenario = ParseScenario(
        R"({"arrivals": {"sessions": 1}, "scripts": [{"name": "s", )" + script + "}]}");
    ASSERT_THAT(scenario, IsOk());
    const TimePoint intended = clock_.Now();
    clock_.Advance(late);
    actor_ =
        std::make_shared<StreamActor>(&world_, PlanSession(*scenario, Material(), 0), intended);
    actor_->Start();
  }

  // The next thing that the session sent.
  v1::SessionRequest Sent() {
    if (call_.sent.empty()) return {};
    v1::SessionRequest request = std::move(call_.sent.front());
    call_.sent.pop_front();
    return request;
  }
  // What the server says `seconds` later, to request `id`.
  void Answer(double seconds, uint64_t id, const std::string& event) {
    clock_.Advance(seconds);
    v1::SessionResponse response;
    ASSERT_TRUE(google::protobuf::TextFormat::ParseFromString(event, &response)) << event;
    response.set_request_id(id);
    call_.events.on_response(response, clock_.Now());
  }
  void AnswerOpen(double seconds) { Answer(seconds, Sent().request_id(), "opened {}"); }
  void EndCall(const absl::Status& status) { call_.events.on_end(status, clock_.Now()); }
  // Time passes and the loop sees it.
  void Pass(double seconds) {
    clock_.Advance(seconds);
    while (loop_.RunReady()) continue;
  }

  Measurements Result() { return recorder_.Result(clock_.Now()); }

  FakeClock clock_;
  EventLoop loop_{&clock_};
  Recorder recorder_{Window{clock_.Now(), clock_.Now(), clock_.Now() + std::chrono::hours(1)},
                     Slo{.ttft_seconds = 1, .inter_token_p99_seconds = 0.1}};
  StreamActor::World world_;
  FakeCall call_;
  std::shared_ptr<StreamActor> actor_;
  bool ended_ = false;
};

constexpr char kOneTurn[] =
    R"("steps": [{"append": {"tokens": 4}}, {"generate": {"max_tokens": 3}}])";

TEST_F(StreamActorTest, PlaysItsScriptAndClosesWhenItIsDone) {
  Start(kOneTurn);
  AnswerOpen(0.1);
  const v1::SessionRequest append = Sent();
  EXPECT_EQ(append.append().token_ids().ids_size(), 4);
  Answer(0.2, append.request_id(), "appended { tokens: 2 }");
  EXPECT_TRUE(call_.sent.empty());  // that was progress, not the end
  Answer(0.2, append.request_id(), "appended { done: true tokens: 4 }");
  const v1::SessionRequest generate = Sent();
  EXPECT_EQ(generate.generate().max_tokens(), 3u);
  Answer(0.3, generate.request_id(), "delta { tokens { id: 1 } }");
  Answer(0.05, generate.request_id(), "delta { tokens { id: 1 } tokens { id: 2 } }");
  Answer(0, 0, "update { outcome: UPDATE_OUTCOME_APPLIED tokens: 5 }");
  Answer(0.1, generate.request_id(), "generated { finish_reason: FINISH_REASON_LENGTH }");
  EXPECT_TRUE(Sent().has_close());
  EXPECT_FALSE(ended_);
  EndCall(absl::OkStatus());
  EXPECT_TRUE(ended_);

  const Measurements m = Result();
  EXPECT_THAT(m.sessions, ElementsAre(Pair("finished", 1)));
  EXPECT_NEAR(m.open.max(), 0.1, 1e-6);
  EXPECT_NEAR(m.append.max(), 0.4, 1e-6);
  EXPECT_NEAR(m.ttft.max(), 0.8, 1e-6);
  EXPECT_NEAR(m.turn.max(), 0.95, 1e-6);
  EXPECT_EQ(m.inter_token.count(), 1u);
  EXPECT_NEAR(m.inter_token.max(), 0.05, 1e-6);
  EXPECT_EQ(m.generated_tokens, 3u);
  EXPECT_EQ(m.appended_tokens, 4u);
  EXPECT_EQ(m.learned_tokens, 5u);
  EXPECT_EQ(m.turns(Verdict::kGood), 1u);
  EXPECT_EQ(recorder_.open_turns(), 0);
}

TEST_F(StreamActorTest, ATurnIsOpenUntilItEndsHoweverItDoes) {
  Start(R"("steps": [{"append": {"tokens": 4}}, {"think": 1}, {"generate": {"max_tokens": 1}}])");
  EXPECT_EQ(recorder_.open_turns(), 1);
  AnswerOpen(0);
  Answer(0, Sent().request_id(), "appended { done: true }");
  EXPECT_EQ(recorder_.open_turns(), 0);  // thinks
  Pass(1);
  EXPECT_EQ(recorder_.open_turns(), 1);
  EndCall(absl::UnavailableError(""));
  EXPECT_EQ(recorder_.open_turns(), 0);
}

// No coordinated omission: a client that was kept from starting in time measures that too.
TEST_F(StreamActorTest, ALateStartCountsFromWhenItWasIntended) {
  Start(R"("steps": [{"generate": {"max_tokens": 1}}])", /*late=*/2);
  AnswerOpen(0.25);
  const uint64_t id = Sent().request_id();
  Answer(0.25, id, "delta { tokens { id: 1 } }");
  Answer(0, id, "generated {}");
  const Measurements m = Result();
  EXPECT_NEAR(m.start_lag.max(), 2, 1e-5);
  EXPECT_NEAR(m.open.max(), 2.25, 2.25 / 128);
  EXPECT_NEAR(m.ttft.max(), 2.5, 1e-5);
  EXPECT_EQ(m.turns(Verdict::kBad), 1u);
}

TEST_F(StreamActorTest, ALateTimerCountsFromWhenThinkingShouldHaveEnded) {
  Start(R"("steps": [{"think": 1}, {"generate": {"max_tokens": 1}}])");
  AnswerOpen(0.5);
  EXPECT_TRUE(call_.sent.empty());
  Pass(4);  // the loop was busy for three seconds too long
  const uint64_t id = Sent().request_id();
  Answer(0.25, id, "delta { tokens { id: 1 } }");
  Answer(0, id, "generated {}");
  EXPECT_NEAR(Result().ttft.max(), 3.25, 1e-5);
}

// What the loop did not come to look at yet has come all the same.
TEST_F(StreamActorTest, ALateLoopDoesNotMoveTheTimeOfAnAnswerNorThatOfTheNextCommand) {
  Start(R"("steps": [{"generate": {"max_tokens": 1}}, {"generate": {"max_tokens": 1}}])");
  AnswerOpen(0);
  const uint64_t first = Sent().request_id();
  const TimePoint came = clock_.Now();
  clock_.Advance(3);
  v1::SessionResponse response;
  response.set_request_id(first);
  response.mutable_delta()->add_tokens();
  call_.events.on_response(response, came);
  response.mutable_generated();
  call_.events.on_response(response, came);
  EXPECT_EQ(Result().ttft.max(), 0);
  const uint64_t second = Sent().request_id();
  Answer(0.5, second, "delta { tokens { id: 1 } }");
  Answer(0, second, "generated {}");
  EXPECT_NEAR(Result().ttft.max(), 3.5, 1e-5);
}

TEST_F(StreamActorTest, CancelsAfterSoManyTokensAndGoesOn) {
  Start(R"("steps": [{"generate": {"max_tokens": 99, "cancel_after_tokens": 2}},
                     {"generate": {"max_tokens": 1}}])");
  AnswerOpen(0);
  const uint64_t id = Sent().request_id();
  Answer(0.1, id, "delta { tokens { id: 1 } }");
  EXPECT_TRUE(call_.sent.empty());
  Answer(0.1, id, "delta { tokens { id: 1 } }");
  EXPECT_EQ(Sent().cancel().request_id(), id);
  Answer(0.1, id, "delta { tokens { id: 1 } }");  // was on its way
  EXPECT_TRUE(call_.sent.empty());
  Answer(0, id, "generated { finish_reason: FINISH_REASON_CANCELLED }");
  EXPECT_TRUE(Sent().has_generate());
  EXPECT_EQ(Result().turns(TurnEnd::kByScript), 1u);
  EXPECT_EQ(Result().turns(Verdict::kGood), 1u);
}

TEST_F(StreamActorTest, TeachesInMidStreamByAppendingAndLearningAtOnce) {
  Start(R"("steps": [{"teach": {"tokens": 7}}, {"generate": {"max_tokens": 1}}])");
  AnswerOpen(0);
  const v1::SessionRequest append = Sent();
  EXPECT_EQ(append.append().token_ids().ids_size(), 7);
  Answer(0, append.request_id(), "appended { done: true tokens: 7 }");
  const v1::SessionRequest adapt = Sent();
  EXPECT_EQ(adapt.adapt().action(), v1::ADAPT_ACTION_UPDATE_NOW);
  Answer(0, adapt.request_id(), "adapted { adapter_version: 1 }");
  EXPECT_TRUE(Sent().has_generate());
}

TEST_F(StreamActorTest, ASlowReaderWaitsBetweenItsReads) {
  Start(R"("steps": [{"generate": {"max_tokens": 9, "read_pause_ms": 500}}])");
  EXPECT_EQ(call_.reads, 1);
  AnswerOpen(0);
  const uint64_t id = Sent().request_id();
  Pass(0.5);
  EXPECT_EQ(call_.reads, 2);
  Answer(0, id, "delta { tokens { id: 1 } }");
  Pass(0.4);
  EXPECT_EQ(call_.reads, 2);
  Pass(0.1);
  EXPECT_EQ(call_.reads, 3);
  Answer(0, id, "generated {}");
  EXPECT_EQ(Result().turns(Verdict::kNotJudged), 1u);
  EXPECT_EQ(Result().ttft.count(), 0u);
}

TEST_F(StreamActorTest, VanishesAfterSoManyTokens) {
  Start(R"("steps": [{"generate": {"max_tokens": 99, "vanish_after_tokens": 1}}])");
  AnswerOpen(0);
  Answer(0.1, Sent().request_id(), "delta { tokens { id: 1 } }");
  EXPECT_TRUE(call_.vanished);
  EXPECT_TRUE(call_.sent.empty());
  EndCall(absl::CancelledError());
  EXPECT_THAT(Result().sessions, ElementsAre(Pair("vanished", 1)));
  EXPECT_EQ(Result().turns(TurnEnd::kByScript), 1u);
}

TEST_F(StreamActorTest, ADeadlineOfItsOwnIsNoFailure) {
  Start(R"("deadline_seconds": 2, "steps": [{"generate": {"max_tokens": 99}}])");
  EXPECT_EQ(call_.deadline_seconds, 2);
  AnswerOpen(0);
  EndCall(absl::DeadlineExceededError(""));
  EXPECT_THAT(Result().sessions, ElementsAre(Pair("deadline", 1)));
  EXPECT_EQ(Result().turns(Verdict::kNotJudged), 1u);
}

TEST_F(StreamActorTest, ARefusedSessionIsATurnThatMissedItsSlo) {
  Start(kOneTurn);
  EndCall(absl::ResourceExhaustedError("all rows are taken"));
  EXPECT_TRUE(ended_);
  EXPECT_FALSE(actor_->opened());
  EXPECT_THAT(Result().sessions, ElementsAre(Pair("refused", 1)));
  EXPECT_EQ(Result().turns(TurnEnd::kFailed), 1u);
  EXPECT_EQ(Result().turns(Verdict::kBad), 1u);
}

TEST_F(StreamActorTest, AFailedCommandEndsTheSessionAsFailed) {
  Start(kOneTurn);
  AnswerOpen(0);
  Answer(0.1, Sent().request_id(), "error { code: 3 message: 'too long' }");
  EXPECT_TRUE(Sent().has_close());
  EndCall(absl::OkStatus());
  EXPECT_THAT(Result().sessions, ElementsAre(Pair("failed: INVALID_ARGUMENT", 1)));
  EXPECT_EQ(Result().turns(TurnEnd::kFailed), 1u);
}

TEST_F(StreamActorTest, AStreamThatTheServerEndsEarlyIsAFailure) {
  Start(kOneTurn);
  AnswerOpen(0);
  EndCall(absl::UnavailableError("draining"));
  EXPECT_THAT(Result().sessions, ElementsAre(Pair("failed: UNAVAILABLE", 1)));
  EXPECT_EQ(Result().turns(Verdict::kBad), 1u);
}

TEST_F(StreamActorTest, WindingDownEndsTheSessionWhereItsTurnEnds) {
  Start(R"("end": "half_close", "steps": [{"generate": {"max_tokens": 1}},
                                          {"generate": {"max_tokens": 1}}])");
  AnswerOpen(0);
  const uint64_t id = Sent().request_id();
  actor_->WindDown();
  EXPECT_FALSE(call_.half_closed);
  Answer(0.1, id, "generated {}");
  EXPECT_TRUE(call_.half_closed);
  EXPECT_TRUE(call_.sent.empty());
  EndCall(absl::OkStatus());
  EXPECT_THAT(Result().sessions, ElementsAre(Pair("finished", 1)));
}

TEST_F(StreamActorTest, WindingDownEndsAThinkingSessionAtOnce) {
  Start(R"("steps": [{"think": 100}, {"generate": {"max_tokens": 1}}])");
  AnswerOpen(0);
  actor_->WindDown();
  EXPECT_TRUE(Sent().has_close());
  Pass(200);
  EXPECT_TRUE(call_.sent.empty());
}

TEST_F(StreamActorTest, ACutSessionHasMissedItsSlo) {
  Start(kOneTurn);
  AnswerOpen(0);
  clock_.Advance(7);
  actor_->Cut();
  EXPECT_TRUE(call_.vanished);
  EndCall(absl::CancelledError());
  EXPECT_THAT(Result().sessions, ElementsAre(Pair("cut", 1)));
  EXPECT_EQ(Result().turns(TurnEnd::kCut), 1u);
  EXPECT_NEAR(Result().ttft.max(), 7, 1e-5);
}

}  // namespace
}  // namespace mayfly::load
