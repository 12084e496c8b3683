#include "client/session_stream.h"

#include <future>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/scripted_service.h"

namespace mayfly {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(SessionStreamTest, OpensAppendsGeneratesAndCloses) {
  ScriptedService service([](ScriptedSession& session) {
    EXPECT_EQ(session.AcceptOpen().label(), "me");
    EXPECT_EQ(session.AcceptAppend().text(), "Once");
    EXPECT_EQ(session.Next().generate().max_tokens(), 5u);
    session.Send("delta { text: ' upon' }");
    session.Send("delta { text: ' a time' }");
    session.Send("generated { finish_reason: FINISH_REASON_LENGTH usage { generated_tokens: 2 } }");
    session.AcceptEnd();
    return grpc::Status::OK;
  });
  v1::Open open;
  open.set_label("me");
  const auto session = *SessionStream::Open(service.Channel(), open);
  EXPECT_EQ(session->opened().session_id(), "s1");
  EXPECT_EQ(session->AppendText("Once")->tokens(), 3u);
  v1::Generate generate;
  generate.set_max_tokens(5);
  std::string text;
  const auto generated =
      session->Generate(generate, [&](const v1::Delta& delta) { text += delta.text(); });
  EXPECT_EQ(text, " upon a time");
  EXPECT_EQ(generated->finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_FALSE(session->ended());
  EXPECT_EQ(session->Close()->freed_bytes(), 64u);
  EXPECT_TRUE(session->ended());
}

TEST(SessionStreamTest, ASnapshotIsSentInMessagesThatServersTake) {
  // A server's default, max_message_bytes.
  constexpr size_t kLargestMessage = 1 << 20;
  const std::string snapshot(3 * kLargestMessage + 1, 's');
  std::string restored;
  ScriptedService service([&](ScriptedSession& session) {
    const v1::SessionRequest open = session.Next();
    EXPECT_EQ(open.open().snapshot_bytes(), snapshot.size());
    while (restored.size() < open.open().snapshot_bytes()) {
      const v1::SessionRequest part = session.Next();
      EXPECT_LE(part.ByteSizeLong(), kLargestMessage);
      if (!part.has_restore()) return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no part");
      restored += part.restore().data();
    }
    session.SendTo(open.request_id(), "opened { session_id: 's1' resumed: true }");
    session.AcceptEnd();
    return grpc::Status::OK;
  });
  const auto session = SessionStream::Open(service.Channel(), {}, {}, snapshot);
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_EQ(restored, snapshot);
  EXPECT_TRUE((*session)->Close().ok());
}

TEST(SessionStreamTest, AppendJoinsThePartsOfItsAnswer) {
  ScriptedService service([](ScriptedSession& session) {
    session.AcceptOpen();
    session.Next();
    session.Send("appended { tokens: 2 nll: 1 token_logprobs: [-1, -2] }");
    session.Send("appended { done: true tokens: 3 nll: 6 token_logprobs: [-3] }");
    session.AcceptEnd();
    return grpc::Status::OK;
  });
  const auto session = *SessionStream::Open(service.Channel(), {});
  std::vector<uint32_t> progress;
  const auto appended =
      session->Append({}, [&](const v1::Appended& part) { progress.push_back(part.tokens()); });
  EXPECT_THAT(progress, ElementsAre(2, 3));
  EXPECT_EQ(appended->tokens(), 3u);
  EXPECT_EQ(appended->nll(), 6);
  EXPECT_THAT(appended->token_logprobs(), ElementsAre(-1, -2, -3));
  EXPECT_TRUE(session->Finish().ok());
}

TEST(SessionStreamTest, ListenersHearWhatComesUnasked) {
  ScriptedService service([](ScriptedSession& session) {
    session.AcceptOpen();
    session.Next();
    session.SendUnasked("update { outcome: UPDATE_OUTCOME_APPLIED chunk_index: 7 }");
    session.Send("appended { done: true }");
    session.Next();
    session.SendUnasked("draining { deadline: 12 }");
    session.SendUnasked("update { outcome: UPDATE_OUTCOME_SKIPPED chunk_index: 8 }");
    session.SendUnasked("closed { reason: 'half-closed' }");
    return grpc::Status::OK;
  });
  std::vector<uint64_t> chunks;
  double deadline = 0;
  const auto session = *SessionStream::Open(
      service.Channel(), {},
      {[&](const v1::Update& update) { chunks.push_back(update.chunk_index()); },
       [&](const v1::Draining& draining) { deadline = draining.deadline(); }});
  EXPECT_TRUE(session->AppendText("x").ok());
  EXPECT_THAT(chunks, ElementsAre(7));
  EXPECT_EQ(session->Finish()->reason(), "half-closed");
  EXPECT_THAT(chunks, ElementsAre(7, 8));
  EXPECT_EQ(deadline, 12);
}

TEST(SessionStreamTest, ARefusedCommandLeavesTheSessionAlive) {
  ScriptedService service([](ScriptedSession& session) {
    session.AcceptOpen();
    session.Next();
    session.Send("error { code: 3 message: 'append has 9 tokens, the limit is 8' }");
    session.AcceptAppend();
    EXPECT_EQ(session.Next().adapt().action(), v1::ADAPT_ACTION_PAUSE);
    session.Send("adapted { adapter_version: 2 paused: true }");
    session.AcceptEnd();
    return grpc::Status::OK;
  });
  const auto session = *SessionStream::Open(service.Channel(), {});
  EXPECT_EQ(session->AppendText("much").status(),
            absl::InvalidArgumentError("append has 9 tokens, the limit is 8"));
  EXPECT_FALSE(session->ended());
  EXPECT_TRUE(session->AppendText("less").ok());
  v1::Adapt pause;
  pause.set_action(v1::ADAPT_ACTION_PAUSE);
  EXPECT_TRUE(session->Adapt(pause)->paused());
  EXPECT_TRUE(session->Close().ok());
}

TEST(SessionStreamTest, ARefusedOpenIsTheStreamsStatus) {
  ScriptedService service([](ScriptedSession& session) {
    session.Next();
    return grpc::Status(grpc::RESOURCE_EXHAUSTED, "all 8 rows are taken");
  });
  EXPECT_EQ(SessionStream::Open(service.Channel(), {}).status(),
            absl::ResourceExhaustedError("all 8 rows are taken"));
}

TEST(SessionStreamTest, AStreamThatDiesGivesItsStatusToEveryCommand) {
  ScriptedService service([](ScriptedSession& session) {
    session.AcceptOpen();
    session.Next();
    session.Send("delta { text: 'half a' }");
    return grpc::Status(grpc::ABORTED, "the session was idle for 600 s");
  });
  const auto session = *SessionStream::Open(service.Channel(), {});
  const absl::Status expected = absl::AbortedError("the session was idle for 600 s");
  EXPECT_EQ(session->Generate({}, {}).status(), expected);
  EXPECT_TRUE(session->ended());
  EXPECT_EQ(session->AppendText("x").status(), expected);
  EXPECT_EQ(session->Close().status(), expected);
  EXPECT_EQ(session->Finish().status(), expected);
  EXPECT_FALSE(session->Cancel().ok());
}

TEST(SessionStreamTest, AStreamThatEndsEarlyWithOkIsStillAnError) {
  ScriptedService service([](ScriptedSession& session) {
    session.AcceptOpen();
    session.Next();
    session.SendUnasked("closed { reason: 'idle' }");
    return grpc::Status::OK;
  });
  const auto session = *SessionStream::Open(service.Channel(), {});
  EXPECT_EQ(session->AppendText("x").status(),
            absl::UnavailableError("the server ended the session: idle"));
}

TEST(SessionStreamTest, NoServerIsUnavailable) {
  ScriptedService service([](ScriptedSession&) { return grpc::Status::OK; });
  service.Stop();
  EXPECT_TRUE(absl::IsUnavailable(SessionStream::Open(service.Channel(), {}).status()));
}

TEST(SessionStreamTest, CancelFromAnotherThreadEndsTheGeneration) {
  std::promise<void> generating;
  ScriptedService service([&](ScriptedSession& session) {
    session.AcceptOpen();
    const uint64_t target = session.Next().request_id();
    session.SendTo(target, "delta { text: 'a' }");
    generating.set_value();
    EXPECT_TRUE(session.Next().has_cancel());
    // An answer to the cancel itself disturbs nothing.
    session.Send("error { code: 5 message: 'nothing to cancel' }");
    session.SendTo(target, "generated { finish_reason: FINISH_REASON_CANCELLED }");
    session.AcceptEnd();
    return grpc::Status::OK;
  });
  const auto session = *SessionStream::Open(service.Channel(), {});
  std::thread canceller([&] {
    generating.get_future().wait();
    EXPECT_TRUE(session->Cancel().ok());
  });
  const auto generated = session->Generate({}, {});
  canceller.join();
  ASSERT_TRUE(generated.ok());
  EXPECT_EQ(generated->finish_reason(), v1::FINISH_REASON_CANCELLED);
  EXPECT_TRUE(session->Close().ok());
}

TEST(SessionStreamTest, DestructionEndsTheCallOnTheServer) {
  std::promise<void> gone;
  ScriptedService service([&](ScriptedSession& session) {
    session.AcceptOpen();
    EXPECT_EQ(session.Next().command_case(), v1::SessionRequest::COMMAND_NOT_SET);
    gone.set_value();
    return grpc::Status::OK;
  });
  { const auto session = *SessionStream::Open(service.Channel(), {}); }
  gone.get_future().wait();
}

}  // namespace
}  // namespace mayfly
