// What a session's user sees when servers go away under it: one stream.

#include "client/resuming_session.h"

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/client/scripted_service.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

using absl::StatusCode;
using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::Ge;
using testing::HasSubstr;
using testing::Le;
using testing::SizeIs;

using Script = ScriptedService::Script;

// Scripts for the sessions that will be opened, in their order.
Script OneAfterTheOther(std::vector<Script> scripts) {
  auto next = std::make_shared<size_t>(0);
  return [scripts = std::move(scripts), next](ScriptedSession& session) {
    const size_t i = (*next)++;
    if (i < scripts.size()) return scripts[i](session);
    return grpc::Status(grpc::StatusCode::INTERNAL, "nobody should have opened");
  };
}

grpc::Status HandOver(ScriptedSession& session) {
  session.SendUnasked("draining { deadline: 5 resume_token: 'the-token' }");
  session.SendUnasked("closed { reason: 'drained' }");
  return {grpc::StatusCode::UNAVAILABLE, "the server is going away"};
}

void AcceptResume(ScriptedSession& session) {
  EXPECT_EQ(session.AcceptOpen().resume_token(), "the-token");
}

class ResumingSessionTest : public testing::Test {
 protected:
  std::unique_ptr<ResumingSession> Open(std::vector<Script> scripts, bool enabled = true) {
    service_ = std::make_unique<ScriptedService>(OneAfterTheOther(std::move(scripts)));
    const auto connect = [this]() -> absl::StatusOr<std::shared_ptr<grpc::ChannelInterface>> {
      return service_->Channel();
    };
    ResumeOptions options{.enabled = enabled, .seed = 1};
    options.sleep = [this](double seconds) { waits_.push_back(seconds); };
    auto session = ResumingSession::Open(connect, {}, {}, options);
    EXPECT_THAT(session, IsOk());
    return *std::move(session);
  }
  absl::StatusOr<v1::Generated> Generate(ResumingSession& session, uint32_t max_tokens) {
    v1::Generate generate;
    generate.set_max_tokens(max_tokens);
    return session.Generate(generate, [&](const v1::Delta& delta) { text_ += delta.text(); });
  }

  std::unique_ptr<ScriptedService> service_;
  std::vector<double> waits_;
  std::string text_;
};

TEST_F(ResumingSessionTest, AGenerationGoesOnBehindTheTokensThatCame) {
  const auto session =
      Open({[](ScriptedSession& there) {
              there.AcceptOpen();
              EXPECT_EQ(there.Next().generate().max_tokens(), 5u);
              there.Send("delta { text: 'a b' tokens { id: 1 } tokens { id: 2 } }");
              there.Send(
                  "generated { finish_reason: FINISH_REASON_CANCELLED usage { generated_tokens: "
                  "2 } timings { time_to_first_token_seconds: 1 total_seconds: 2 } }");
              return HandOver(there);
            },
            [](ScriptedSession& there) {
              AcceptResume(there);
              const v1::Generate rest = there.Next().generate();
              EXPECT_EQ(rest.max_tokens(), 3u);
              EXPECT_EQ(rest.continued_tokens(), 2u);
              there.Send("delta { text: ' c' tokens { id: 3 } }");
              there.Send(
                  "generated { finish_reason: FINISH_REASON_EOS usage { generated_tokens: 1 } "
                  "timings { time_to_first_token_seconds: 3 total_seconds: 4 } }");
              there.AcceptEnd();
              return grpc::Status::OK;
            }});
  const auto generated = Generate(*session, 5);
  ASSERT_THAT(generated, IsOk());
  EXPECT_EQ(text_, "a b c");
  EXPECT_EQ(generated->finish_reason(), v1::FINISH_REASON_EOS);
  EXPECT_EQ(generated->usage().generated_tokens(), 3u);
  EXPECT_EQ(generated->timings().time_to_first_token_seconds(), 1);
  EXPECT_EQ(generated->timings().total_seconds(), 6);
  EXPECT_EQ(session->moves(), 1);
  EXPECT_THAT(session->Close(), IsOk());
}

TEST_F(ResumingSessionTest, AGenerationThatHadAllItsTokensAsksForNoMore) {
  const auto session = Open({[](ScriptedSession& there) {
                               there.AcceptOpen();
                               there.Next();
                               there.Send("delta { tokens { id: 1 } }");
                               there.Send("generated { finish_reason: FINISH_REASON_CANCELLED }");
                               return HandOver(there);
                             },
                             [](ScriptedSession& there) {
                               AcceptResume(there);
                               there.AcceptEnd();
                               return grpc::Status::OK;
                             }});
  EXPECT_EQ(Generate(*session, 1)->finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_THAT(session->Close(), IsOk());
}

TEST_F(ResumingSessionTest, AnAppendGoesOnBehindTheTokensThatWereTaken) {
  const auto session = Open(
      {[](ScriptedSession& there) {
         there.AcceptOpen();
         there.Next();
         there.Send("appended { tokens: 2 scored_tokens: 1 nll: 1 token_logprobs: [nan, -1] }");
         there.Send("appended { tokens: 3 scored_tokens: 2 nll: 3 token_logprobs: [-2] }");
         there.Send("error { code: 1 message: 'the session goes on elsewhere' }");
         return HandOver(there);
       },
       [](ScriptedSession& there) {
         AcceptResume(there);
         const v1::Append rest = there.Next().append();
         EXPECT_EQ(rest.text(), "five tokens");
         EXPECT_EQ(rest.skip_tokens(), 3u);
         there.Send("appended { tokens: 4 scored_tokens: 1 nll: 10 token_logprobs: [-10] }");
         there.Send(
             "appended { done: true tokens: 5 scored_tokens: 2 nll: 30 token_logprobs: "
             "[-20] }");
         there.AcceptEnd();
         return grpc::Status::OK;
       }});
  std::vector<double> nll;
  v1::Append append;
  append.set_text("five tokens");
  const auto appended =
      session->Append(append, [&](const v1::Appended& part) { nll.push_back(part.nll()); });
  ASSERT_THAT(appended, IsOk());
  EXPECT_THAT(nll, ElementsAre(1, 3, 13, 33));
  EXPECT_EQ(appended->tokens(), 5u);
  EXPECT_EQ(appended->scored_tokens(), 4u);
  EXPECT_EQ(appended->nll(), 33);
  EXPECT_THAT(appended->token_logprobs(), ElementsAre(testing::IsNan(), -1, -2, -10, -20));
  EXPECT_THAT(session->Close(), IsOk());
}

TEST_F(ResumingSessionTest, ACommandThatCameTooLateIsSentAgain) {
  const auto session = Open({[](ScriptedSession& there) {
                               there.AcceptOpen();
                               there.Next();
                               there.Send("error { code: 14 message: 'goes on elsewhere' }");
                               return HandOver(there);
                             },
                             [](ScriptedSession& there) {
                               AcceptResume(there);
                               EXPECT_EQ(there.Next().adapt().action(), v1::ADAPT_ACTION_RESET);
                               there.Send("adapted { adapter_version: 4 }");
                               return grpc::Status::OK;
                             }});
  v1::Adapt adapt;
  adapt.set_action(v1::ADAPT_ACTION_RESET);
  EXPECT_EQ(session->Adapt(adapt)->adapter_version(), 4u);
}

TEST_F(ResumingSessionTest, ASessionThatLeavesBetweenTwoCommandsMovesWithTheNext) {
  const auto session = Open({[](ScriptedSession& there) {
                               there.AcceptOpen();
                               there.AcceptAppend();
                               return HandOver(there);
                             },
                             [](ScriptedSession& there) {
                               AcceptResume(there);
                               EXPECT_EQ(there.AcceptAppend().skip_tokens(), 0u);
                               there.AcceptEnd();
                               return grpc::Status::OK;
                             }});
  EXPECT_THAT(session->AppendText("one"), IsOk());
  EXPECT_THAT(session->AppendText("two"), IsOk());
  EXPECT_THAT(session->Close(), IsOk());
}

TEST_F(ResumingSessionTest, ItWaitsLongerEachTimeAndNeverAsLongAsAnother) {
  const Script refuse = [](ScriptedSession& there) {
    there.Next();
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is draining");
  };
  const auto session = Open({[](ScriptedSession& there) {
                               there.AcceptOpen();
                               there.Next();
                               return HandOver(there);
                             },
                             refuse, refuse, refuse,
                             [](ScriptedSession& there) {
                               AcceptResume(there);
                               there.AcceptAppend();
                               there.AcceptEnd();
                               return grpc::Status::OK;
                             }});
  EXPECT_THAT(session->AppendText("one"), IsOk());
  ASSERT_THAT(waits_, SizeIs(3));
  for (size_t i = 0; i < waits_.size(); ++i) {
    EXPECT_THAT(waits_[i], AllOf(Ge(0), Le(0.1 * (1 << i))));
  }
  EXPECT_THAT(session->Close(), IsOk());
}

TEST_F(ResumingSessionTest, AServerThatShutsDownIsAskedAgain) {
  const auto session = Open({[](ScriptedSession& there) {
                               there.AcceptOpen();
                               there.Next();
                               return HandOver(there);
                             },
                             [](ScriptedSession& there) {
                               there.Next();
                               return grpc::Status(grpc::StatusCode::CANCELLED, "CANCELLED");
                             },
                             [](ScriptedSession& there) {
                               AcceptResume(there);
                               there.AcceptAppend();
                               there.AcceptEnd();
                               return grpc::Status::OK;
                             }});
  EXPECT_THAT(session->AppendText("one"), IsOk());
  EXPECT_THAT(waits_, SizeIs(1));
  EXPECT_THAT(session->Close(), IsOk());
}

TEST_F(ResumingSessionTest, ItGivesUpWithTheReason) {
  std::vector<Script> scripts = {[](ScriptedSession& there) {
    there.AcceptOpen();
    there.Next();
    return HandOver(there);
  }};
  for (int i = 0; i < 200; ++i) {
    scripts.push_back([](ScriptedSession& there) {
      there.Next();
      return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "no row is free");
    });
  }
  const auto session = Open(std::move(scripts));
  EXPECT_THAT(session->AppendText("one").status(),
              StatusIs(StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("could not be resumed"), HasSubstr("no row is free"))));
  double waited = 0;
  for (const double wait : waits_) waited += wait;
  EXPECT_THAT(waited, AllOf(Ge(60), Le(65)));
  EXPECT_THAT(waits_, Each(Le(5)));
}

TEST_F(ResumingSessionTest, WhatCannotSucceedLaterFailsAtOnce) {
  const auto session = Open({[](ScriptedSession& there) {
                               there.AcceptOpen();
                               there.Next();
                               return HandOver(there);
                             },
                             [](ScriptedSession& there) {
                               there.Next();
                               return grpc::Status(grpc::StatusCode::NOT_FOUND, "it has expired");
                             }});
  EXPECT_THAT(session->AppendText("one").status(),
              StatusIs(StatusCode::kNotFound, HasSubstr("it has expired")));
  EXPECT_THAT(waits_, SizeIs(0));
}

TEST_F(ResumingSessionTest, WhatItsUserCancelsIsNoMove) {
  const auto session = Open({[](ScriptedSession& there) {
    there.AcceptOpen();
    there.Next();
    there.Send("delta { text: 'a' tokens { id: 1 } }");
    EXPECT_TRUE(there.Next().has_cancel());
    there.SendTo(2, "generated { finish_reason: FINISH_REASON_CANCELLED }");
    there.AcceptEnd();
    return grpc::Status::OK;
  }});
  v1::Generate generate;
  generate.set_max_tokens(5);
  const auto generated = session->Generate(
      generate, [&](const v1::Delta&) { EXPECT_THAT(session->Cancel(), IsOk()); });
  EXPECT_EQ(generated->finish_reason(), v1::FINISH_REASON_CANCELLED);
  EXPECT_THAT(session->Close(), IsOk());
}

TEST_F(ResumingSessionTest, AnEndWithoutATokenIsAnEnd) {
  const auto session = Open({[](ScriptedSession& there) {
    there.AcceptOpen();
    there.Next();
    there.Send("generated { finish_reason: FINISH_REASON_CANCELLED }");
    there.SendUnasked("closed { reason: 'terminated' }");
    return grpc::Status(grpc::StatusCode::ABORTED, "an operator ended the session");
  }});
  EXPECT_EQ(Generate(*session, 5)->finish_reason(), v1::FINISH_REASON_CANCELLED);
  EXPECT_TRUE(session->ended());
  EXPECT_THAT(session->AppendText("one").status(), HasCode(StatusCode::kAborted));
}

TEST_F(ResumingSessionTest, WhoDidNotAskForItIsToldThatTheServerGoes) {
  const auto session = Open({[](ScriptedSession& there) {
                              there.AcceptOpen();
                              there.Next();
                              return HandOver(there);
                            }},
                            /*enabled=*/false);
  EXPECT_THAT(session->AppendText("one").status(), HasCode(StatusCode::kUnavailable));
  EXPECT_TRUE(session->ended());
}

// ---- Exports --------------------------------------------------------------------------------

TEST_F(ResumingSessionTest, APartThatWasDamagedOnTheWayIsDataLoss) {
  const auto session = Open({[](ScriptedSession& there) {
    there.AcceptOpen();
    there.Next();
    there.Send("exported { file: 'f' file_bytes: 6 data: 'abc' crc32: 891568578 }");
    there.Send("exported { file: 'f' offset: 3 file_bytes: 6 data: 'abc' crc32: 1 done: true }");
    there.AcceptEnd();
    return grpc::Status::OK;
  }});
  std::string data;
  const auto write = [&](const v1::Exported& part) {
    data += part.data();
    return absl::OkStatus();
  };
  EXPECT_THAT(session
                  ->Export(
                      {}, [&] { data.clear(); }, write)
                  .status(),
              StatusIs(StatusCode::kDataLoss, HasSubstr("f was damaged on the way, at byte 3")));
  EXPECT_EQ(data, "abc");
  EXPECT_THAT(session->Close(), IsOk());
}

}  // namespace
}  // namespace mayfly
