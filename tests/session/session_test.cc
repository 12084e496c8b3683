#include "session/session.h"

#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include "tests/session/session_fixture.h"

namespace mayfly {
namespace {

using absl::StatusCode;
using testing::AllOf;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Optional;
using testing::SizeIs;

class SessionTest : public SessionFixture {};

AppendCommand TextAppend(const std::string& text) {
  AppendCommand append;
  append.input = TextInput(text);
  return append;
}

// ---- Opening -------------------------------------------------------------------------------

TEST_F(SessionTest, OpenedTellsTheEffectiveOptionsAndWhatTheRowReserves) {
  SessionClient client(&manager_);
  OpenCommand open = SmallChunks();
  open.sampling.temperature = 0.5;
  open.window_tokens = 32;
  open.seed = 77;
  const uint64_t id = client.Send(open);
  Run(client);
  const auto opened = client.All<OpenedEvent>(id);
  ASSERT_THAT(opened, SizeIs(1));
  EXPECT_EQ(opened[0].session_id, client.session().id());
  EXPECT_EQ(opened[0].model, "fake");
  EXPECT_EQ(opened[0].adaptation.chunk_tokens, kChunk);
  EXPECT_EQ(opened[0].adaptation.adapter.seed, 77u);
  EXPECT_EQ(opened[0].sampling.temperature, 0.5);
  EXPECT_EQ(opened[0].sampling.seed, 77u);
  EXPECT_EQ(opened[0].window_tokens, 32);
  EXPECT_EQ(opened[0].seed, 77u);
  EXPECT_EQ(opened[0].reserved.total(), 150u);
  EXPECT_EQ(engine_.opened()[0].window_tokens, 32);
  EXPECT_EQ(engine_.opened()[0].adapter.rank, 4);
  EXPECT_EQ(metrics_.opened.value(), 1u);
  EXPECT_EQ(metrics_.active.value(), 1);
}

TEST_F(SessionTest, ASeedThatTheClientDoesNotGiveIsChosenAndReported) {
  SessionClient first(&manager_);
  SessionClient second(&manager_);
  Open(first);
  Open(second);
  const OpenedEvent a = first.All<OpenedEvent>()[0];
  const OpenedEvent b = second.All<OpenedEvent>()[0];
  EXPECT_NE(a.seed, b.seed);
  EXPECT_EQ(a.adaptation.adapter.seed, a.seed);
}

TEST_F(SessionTest, AFirstMessageThatIsNotOpenEndsTheStream) {
  SessionClient client(&manager_);
  client.Append("text");
  client.ReadAll();
  ASSERT_TRUE(client.final_status());
  EXPECT_THAT(*client.final_status(), StatusIs(StatusCode::kInvalidArgument, HasSubstr("open")));
  EXPECT_THAT(client.events(), SizeIs(0));
  EXPECT_EQ(metrics_.closed[static_cast<size_t>(CloseReason::kInvalid)].value(), 1u);
}

TEST_F(SessionTest, AnInvalidFirstMessageEndsTheStreamWithItsReason) {
  SessionClient client(&manager_);
  client.Send(InvalidCommand{absl::InvalidArgumentError("no command is set")});
  client.ReadAll();
  EXPECT_THAT(*client.final_status(), StatusIs(StatusCode::kInvalidArgument, "no command is set"));
}

TEST_F(SessionTest, AnOpenWithBadOptionsEndsTheStreamAndTakesNoRow) {
  SessionClient client(&manager_);
  OpenCommand open = SmallChunks();
  open.adaptation.rank = 65;
  client.Send(open);
  client.ReadAll();
  EXPECT_THAT(*client.final_status(), StatusIs(StatusCode::kInvalidArgument, HasSubstr("rank")));
  EXPECT_THAT(engine_.opened(), SizeIs(0));
}

TEST_F(SessionTest, AStreamThatEndsBeforeOpenIsInvalid) {
  SessionClient client(&manager_);
  client.session().HalfClose();
  client.ReadAll();
  EXPECT_THAT(*client.final_status(), HasCode(StatusCode::kInvalidArgument));
}

TEST_F(SessionTest, WithoutAFreeRowTheStreamEndsResourceExhausted) {
  SessionClient first(&manager_), second(&manager_), third(&manager_);
  Open(first);
  Open(second);
  third.Send(SmallChunks());
  third.Append("waits in vain");
  Run(third);
  ASSERT_TRUE(third.final_status());
  EXPECT_THAT(*third.final_status(), HasCode(StatusCode::kResourceExhausted));
  EXPECT_THAT(third.ErrorOf(2), HasCode(StatusCode::kCancelled));
  EXPECT_EQ(metrics_.rejected_no_row.value(), 1u);
  EXPECT_EQ(metrics_.closed[static_cast<size_t>(CloseReason::kNoRow)].value(), 1u);
}

TEST_F(SessionTest, AnEngineThatTakesNoWorkEndsTheStreamUnavailable) {
  engine_.FailDevice(absl::InternalError("gone"));
  SessionClient client(&manager_);
  client.Send(SmallChunks());
  Run(client);
  EXPECT_THAT(*client.final_status(), HasCode(StatusCode::kUnavailable));
}

TEST_F(SessionTest, ASecondOpenIsAnErrorAndTheSessionLives) {
  SessionClient client(&manager_);
  Open(client);
  const uint64_t second = client.Send(SmallChunks());
  const uint64_t append = client.Append("abc");
  Run(client);
  EXPECT_THAT(client.ErrorOf(second), HasCode(StatusCode::kFailedPrecondition));
  EXPECT_THAT(client.All<AppendedEvent>(append), SizeIs(1));
}

TEST_F(SessionTest, CommandsSentBeforeTheRowIsReadyWaitForIt) {
  SessionClient client(&manager_);
  client.Send(SmallChunks());
  const uint64_t append = client.Append("abc");
  Run(client);
  ASSERT_THAT(client.All<AppendedEvent>(append), SizeIs(1));
  EXPECT_TRUE(std::holds_alternative<OpenedEvent>(client.events()[0].body));
}

// ---- Append --------------------------------------------------------------------------------

TEST_F(SessionTest, AppendFeedsTheRowAndAnswersOnce) {
  SessionClient client(&manager_);
  Open(client);
  const uint64_t id = client.Append("hello");
  Run(client);
  const auto appended = client.All<AppendedEvent>(id);
  ASSERT_THAT(appended, SizeIs(1));
  EXPECT_TRUE(appended[0].done);
  EXPECT_EQ(appended[0].tokens, 5);
  EXPECT_EQ(appended[0].window_position, 5);
  EXPECT_FALSE(appended[0].nll);
  EXPECT_EQ(appended[0].scored_tokens, 0);
  EXPECT_THAT(engine_.stream(0), ElementsAre('h', 'e', 'l', 'l', 'o'));
}

TEST_F(SessionTest, ScoresSumOverAllTokensButTheFirstOfTheStream) {
  SessionClient client(&manager_);
  Open(client);
  AppendCommand append = TextAppend("0123456789");
  append.score = true;
  append.compare_base = true;
  const uint64_t first = client.Send(append);
  const uint64_t second = client.Send(append);
  Run(client);
  const auto one = client.All<AppendedEvent>(first).back();
  EXPECT_EQ(one.scored_tokens, 9);
  EXPECT_THAT(one.nll, Optional(9.0));
  EXPECT_THAT(one.base_nll, Optional(13.5));
  const auto two = client.All<AppendedEvent>(second).back();
  EXPECT_EQ(two.scored_tokens, 10);
  EXPECT_THAT(two.nll, Optional(10.0));
}

TEST_F(SessionTest, TokenLogprobsComeInPartsThatTogetherCoverEveryToken) {
  SessionClient client(&manager_);
  Open(client);
  AppendCommand append = TextAppend(std::string(20, 'x'));
  append.token_logprobs = true;
  append.compare_base = true;
  const uint64_t id = client.Send(append);
  Run(client);
  const auto parts = client.All<AppendedEvent>(id);
  ASSERT_GT(parts.size(), 1u);
  std::vector<float> logprobs, base;
  int32_t done = 0;
  for (const AppendedEvent& part : parts) {
    EXPECT_EQ(part.done, &part == &parts.back());
    EXPECT_EQ(part.tokens - done, static_cast<int32_t>(part.token_logprobs.size()));
    done = part.tokens;
    logprobs.insert(logprobs.end(), part.token_logprobs.begin(), part.token_logprobs.end());
    base.insert(base.end(), part.base_token_logprobs.begin(), part.base_token_logprobs.end());
  }
  ASSERT_THAT(logprobs, SizeIs(20));
  ASSERT_THAT(base, SizeIs(20));
  EXPECT_TRUE(std::isnan(logprobs[0]));
  EXPECT_EQ(logprobs[1], -1.0f);
  EXPECT_EQ(base[19], -1.5f);
  EXPECT_THAT(parts.back().nll, Optional(19.0));
}

TEST_F(SessionTest, ALongAppendReportsItsProgress) {
  SessionClient client(&manager_);
  Open(client);
  const uint64_t id = client.Append(std::string(2100, 'x'));
  Run(client);
  const auto parts = client.All<AppendedEvent>(id);
  ASSERT_THAT(parts, SizeIs(3));
  EXPECT_EQ(parts[0].tokens, AppendTask::kReportTokens);
  EXPECT_EQ(parts[1].tokens, 2 * AppendTask::kReportTokens);
  EXPECT_FALSE(parts[1].done);
  EXPECT_TRUE(parts[2].done);
}

TEST_F(SessionTest, TokenIdsAndMessagesAreInputToo) {
  SessionClient client(&manager_);
  Open(client);
  AppendCommand ids;
  ids.input = std::vector<uint32_t>{1, 2, 256};
  client.Send(ids);
  AppendCommand chat;
  chat.input = TextInput(ChatInput{{{"user", "hi"}}, true});
  client.Send(chat);
  Run(client);
  const std::vector<TokenId> stream = engine_.stream(0);
  EXPECT_THAT(std::vector<TokenId>(stream.begin(), stream.begin() + 3), ElementsAre(1, 2, 256));
  EXPECT_EQ(std::string(stream.begin() + 3, stream.end()), "<user>hi<assistant>");
}

TEST_F(SessionTest, BadInputIsAnErrorThatTakesNothingAndTheSessionLives) {
  SessionClient client(&manager_);
  Open(client);
  AppendCommand bad_id;
  bad_id.input = std::vector<uint32_t>{1, 257};
  const uint64_t empty = client.Send(AppendCommand{});
  const uint64_t outside = client.Send(bad_id);
  const uint64_t not_text = client.Append("\xFF");
  const uint64_t unreadable = client.Send(InvalidCommand{absl::InvalidArgumentError("unknown")});
  const uint64_t good = client.Append("good");
  Run(client);
  for (const uint64_t id : {empty, outside, not_text, unreadable}) {
    EXPECT_THAT(client.ErrorOf(id), HasCode(StatusCode::kInvalidArgument));
  }
  EXPECT_THAT(client.ErrorOf(outside), StatusIs(StatusCode::kInvalidArgument, HasSubstr("257")));
  EXPECT_THAT(client.All<AppendedEvent>(good), SizeIs(1));
  EXPECT_THAT(engine_.stream(0), SizeIs(4));
}

TEST_F(SessionTest, WhatTheTokenizerRefusesIsAnError) {
  FakeEngine engine({.has_chat_template = false});
  SessionManager manager({}, &engine, &clock_, &log_, &metrics_);
  SessionClient client(&manager);
  client.Send(SmallChunks());
  AppendCommand chat;
  chat.input = TextInput(ChatInput{{{"user", "hi"}}, true});
  const uint64_t id = client.Send(chat);
  client.Close();
  engine.RunUntilIdle();
  client.ReadAll();
  EXPECT_FALSE(client.ErrorOf(id).ok());
}

TEST_F(SessionTest, AFailedPieceIsAnErrorThatSaysHowFarTheAppendCame) {
  SessionClient client(&manager_);
  Open(client);
  engine_.FailNext<PrefillWork>(absl::ResourceExhaustedError("out of memory"));
  const uint64_t failed = client.Append(std::string(20, 'x'));
  const uint64_t next = client.Append("y");
  Run(client);
  EXPECT_THAT(client.ErrorOf(failed),
              StatusIs(StatusCode::kResourceExhausted,
                       AllOf(HasSubstr("out of memory"), HasSubstr("0 of 20"))));
  EXPECT_EQ(client.All<AppendedEvent>(next).back().window_position, 1);
}

// ---- Generate ------------------------------------------------------------------------------

TEST_F(SessionTest, GenerateStreamsDeltasAndAnswersWithItsUsage) {
  SessionClient client(&manager_);
  Open(client);
  client.Append("ab");
  const uint64_t id = client.Generate(5);
  Run(client);
  EXPECT_EQ(client.Text(), "cdefg");
  EXPECT_THAT(client.All<DeltaEvent>(id), SizeIs(5));
  const auto generated = client.All<GeneratedEvent>(id);
  ASSERT_THAT(generated, SizeIs(1));
  EXPECT_EQ(generated[0].reason, FinishReason::kLength);
  EXPECT_EQ(generated[0].usage.generated_tokens, 5u);
  EXPECT_EQ(metrics_.generations_finished[static_cast<size_t>(FinishReason::kLength)].value(), 1u);
}

TEST_F(SessionTest, TheWholeGenerateCommandReachesTheEngine) {
  SessionClient client(&manager_);
  OpenCommand open = SmallChunks();
  open.sampling.top_p = 0.5;
  Open(client, open);
  client.Append("ab");
  GenerateCommand generate;
  generate.max_tokens = 3;
  generate.sampling.temperature = 0.25;
  generate.stop = {"zz"};
  generate.stop_token_ids = {42};
  generate.ignore_eos = true;
  generate.logprobs = 2;
  client.Send(generate);
  Run(client);
  const GenerateWork work = engine_.SubmittedOf<GenerateWork>().at(0);
  EXPECT_EQ(work.sampling.temperature, 0.25);
  EXPECT_EQ(work.sampling.top_p, 0.5);
  EXPECT_EQ(work.sampling.seed, client.All<OpenedEvent>()[0].seed);
  EXPECT_EQ(work.max_tokens, 3);
  EXPECT_THAT(work.stop, ElementsAre("zz"));
  EXPECT_THAT(work.stop_token_ids, ElementsAre(42));
  EXPECT_TRUE(work.ignore_eos);
  EXPECT_EQ(work.logprobs, 2);
  EXPECT_THAT(client.All<DeltaEvent>()[0].delta.tokens[0].top, SizeIs(2));
}

TEST_F(SessionTest, TheReasonOfAnEndIsTheEngines) {
  SessionClient client(&manager_);
  Open(client);
  FakeEngine::Script script;
  script.next_token = [](uint64_t position) {
    return position == 4 ? FakeEngine::kEos : static_cast<TokenId>('a');
  };
  engine_.SetScript(script);
  client.Append("ab");
  const uint64_t eos = client.Generate(10);
  GenerateCommand stopped;
  stopped.max_tokens = 10;
  stopped.stop_token_ids = {'a'};
  const uint64_t stop = client.Send(stopped);
  Run(client);
  EXPECT_EQ(client.All<GeneratedEvent>(eos)[0].reason, FinishReason::kEos);
  EXPECT_EQ(client.All<GeneratedEvent>(stop)[0].reason, FinishReason::kStop);
}

TEST_F(SessionTest, GeneratingOnAnEmptyStreamIsRefused) {
  SessionClient client(&manager_);
  Open(client);
  const uint64_t id = client.Generate(5);
  Run(client);
  EXPECT_THAT(client.ErrorOf(id), StatusIs(StatusCode::kFailedPrecondition, HasSubstr("empty")));
}

TEST_F(SessionTest, GenerationsOutsideTheirLimitsAreRefused) {
  SessionClient client(&manager_);
  Open(client);
  client.Append("ab");
  GenerateCommand hot;
  hot.max_tokens = 1;
  hot.sampling.temperature = NAN;
  GenerateCommand outside;
  outside.max_tokens = 1;
  outside.stop_token_ids = {999};
  const std::vector<uint64_t> bad = {client.Generate(0), client.Generate(16385), client.Send(hot),
                                     client.Send(outside)};
  Run(client);
  for (const uint64_t id : bad) {
    EXPECT_THAT(client.ErrorOf(id), HasCode(StatusCode::kInvalidArgument));
  }
}

TEST_F(SessionTest, AFailedGenerationIsAnErrorAndTheSessionLives) {
  SessionClient client(&manager_);
  Open(client);
  client.Append("ab");
  engine_.FailNext<GenerateWork>(absl::InternalError("bad step"));
  const uint64_t failed = client.Generate(5);
  const uint64_t next = client.Generate(2);
  Run(client);
  EXPECT_THAT(client.ErrorOf(failed), StatusIs(StatusCode::kInternal, HasSubstr("bad step")));
  EXPECT_THAT(client.All<GeneratedEvent>(failed), SizeIs(0));
  EXPECT_THAT(client.All<GeneratedEvent>(next), SizeIs(1));
}

TEST_F(SessionTest, TimingsCountFromTheClientsCommand) {
  SessionClient client(&manager_);
  Open(client);
  client.Append("ab");
  Run(client);
  const uint64_t first = client.Generate(2);
  const uint64_t second = client.Generate(2);
  while (client.All<GeneratedEvent>(first).empty()) {
    clock_.Advance(1);
    engine_.Step();
    client.ReadAll();
  }
  clock_.Advance(10);
  Run(client);
  const GeneratedEvent one = client.All<GeneratedEvent>(first)[0];
  EXPECT_EQ(one.queue_seconds, 0);
  EXPECT_GT(one.first_token_seconds, 0);
  EXPECT_GT(one.total_seconds, one.first_token_seconds);
  EXPECT_GE(client.All<GeneratedEvent>(second)[0].queue_seconds, one.total_seconds);
}

// ---- Order, cancel ---------------------------------------------------------------------------

TEST_F(SessionTest, CommandsRunInOrder) {
  SessionClient client(&manager_);
  Open(client);
  client.Append("ab");
  client.Generate(2);
  client.Append("xy");
  client.Generate(2);
  Run(client);
  const std::vector<TokenId> stream = engine_.stream(0);
  EXPECT_EQ(std::string(stream.begin(), stream.end()), "abcdxygh");
}

TEST_F(SessionTest, ACancelledGenerationEndsCancelledAndTheSessionGoesOn) {
  SessionClient client(&manager_);
  Open(client);
  client.Append("ab");
  const uint64_t id = client.Generate(1000);
  while (client.All<DeltaEvent>().size() < 3) {
    engine_.Step();
    client.ReadAll();
  }
  client.Cancel(id);
  const uint64_t next = client.Append("xy");
  Run(client);
  const auto generated = client.All<GeneratedEvent>(id);
  ASSERT_THAT(generated, SizeIs(1));
  EXPECT_EQ(generated[0].reason, FinishReason::kCancelled);
  EXPECT_EQ(generated[0].usage.generated_tokens, client.All<DeltaEvent>(id).size());
  EXPECT_THAT(client.All<AppendedEvent>(next), SizeIs(1));
  EXPECT_THAT(client.All<ErrorEvent>(), SizeIs(0));
}

TEST_F(SessionTest, ACancelledAppendSaysHowManyTokensWereTaken) {
  SessionClient client(&manager_);
  Open(client, Off());
  const uint64_t id = client.Append(std::string(40, 'x'));
  while (engine_.stream(0).size() < 10) engine_.Step();
  client.Cancel(id);
  Run(client);
  EXPECT_THAT(client.ErrorOf(id), StatusIs(StatusCode::kCancelled, HasSubstr("10 of 40")));
  const uint64_t next = client.Append("y");
  Run(client);
  EXPECT_EQ(client.All<AppendedEvent>(next)[0].window_position, 11);
}

TEST_F(SessionTest, ACancelledAppendWhoseTextIsBeingTokenizedTakesNothing) {
  SessionClient client(&manager_);
  Open(client);
  const uint64_t id = client.Append("text");
  client.Cancel(id);
  const uint64_t next = client.Append("y");
  Run(client);
  EXPECT_THAT(client.ErrorOf(id), StatusIs(StatusCode::kCancelled, HasSubstr("0 of 0")));
  EXPECT_THAT(client.All<AppendedEvent>(next), SizeIs(1));
  EXPECT_THAT(engine_.stream(0), SizeIs(1));
}

TEST_F(SessionTest, ACancelThatComesTooLateForItsPieceIsAnsweredAllTheSame) {
  SessionClient client(&manager_);
  Open(client);
  const uint64_t id = client.Append(std::string(20, 'x'));
  while (engine_.SubmittedOf<PrefillWork>().empty()) engine_.Step();
  client.Cancel(id);
  // The piece's last part was on its way before the engine heard of the cancel.
  Scored part;
  part.done = true;
  part.tokens_done = kChunk;
  client.session().Offer({engine_.submitted().back().id, part});
  client.ReadAll();
  EXPECT_THAT(client.ErrorOf(id), StatusIs(StatusCode::kCancelled, HasSubstr("8 of 20")));
}

TEST_F(SessionTest, WaitingCommandsAreCancelledBeforeTheyBegin) {
  SessionClient client(&manager_);
  Open(client);
  client.Append("ab");
  const uint64_t append = client.Append("cd");
  const uint64_t generate = client.Generate(5);
  client.Cancel(append);
  client.Cancel(generate);
  Run(client);
  EXPECT_THAT(client.ErrorOf(append), HasCode(StatusCode::kCancelled));
  EXPECT_EQ(client.All<GeneratedEvent>(generate)[0].reason, FinishReason::kCancelled);
  EXPECT_THAT(engine_.stream(0), SizeIs(2));
}

TEST_F(SessionTest, CancelZeroCancelsEverything) {
  SessionClient client(&manager_);
  Open(client);
  client.Append("ab");
  Run(client);
  const uint64_t running = client.Generate(1000);
  const uint64_t waiting = client.Append("cd");
  const uint64_t cancel = client.Cancel(0);
  Run(client);
  EXPECT_EQ(client.All<GeneratedEvent>(running)[0].reason, FinishReason::kCancelled);
  EXPECT_THAT(client.ErrorOf(waiting), HasCode(StatusCode::kCancelled));
  EXPECT_THAT(client.ErrorOf(cancel), IsOk());
  const uint64_t idle = client.Cancel(0);
  Run(client);
  EXPECT_THAT(client.ErrorOf(idle), IsOk());
}

TEST_F(SessionTest, CancellingWhatIsUnknownIsNotFound) {
  SessionClient client(&manager_);
  Open(client);
  const uint64_t done = client.Append("ab");
  Run(client);
  const uint64_t cancel = client.Cancel(done);
  Run(client);
  EXPECT_THAT(client.ErrorOf(cancel), StatusIs(StatusCode::kNotFound, HasSubstr("request_id 2")));
}

TEST_F(SessionTest, ARequestIdIsTakenUntilItsCommandIsAnswered) {
  SessionClient client(&manager_);
  Open(client);
  client.session().Handle(50, TextAppend("ab"));
  client.session().Handle(50, TextAppend("cd"));
  Run(client);
  EXPECT_THAT(client.ErrorOf(50), HasCode(StatusCode::kAlreadyExists));
  client.session().Handle(50, TextAppend("ef"));
  Run(client);
  EXPECT_THAT(client.All<AppendedEvent>(50), SizeIs(2));
}

// ---- The window ------------------------------------------------------------------------------

TEST_F(SessionTest, AFullWindowKeepsItsNewestContextAndGoesOn) {
  SessionClient client(&manager_);
  OpenCommand open = Off();
  open.adaptation.context_tokens = 10;
  open.window_tokens = 32;
  Open(client, open);
  client.Append(std::string(100, 'x'));
  const uint64_t id = client.Generate(100);
  Run(client);
  EXPECT_EQ(client.All<GeneratedEvent>(id)[0].usage.generated_tokens, 100u);
  EXPECT_THAT(engine_.stream(0), SizeIs(200));
  const auto refreshes = engine_.SubmittedOf<RefreshWork>();
  ASSERT_FALSE(refreshes.empty());
  for (size_t i = 0; i < refreshes.size(); ++i) {
    EXPECT_EQ(refreshes[i].begin, 32 - 10 + i * (32 - 10)) << "the newest 10 of a full window";
  }
}

TEST_F(SessionTest, AFailedRefreshFailsTheCommandThatNeededItAndIsTriedAgainByTheNext) {
  SessionClient client(&manager_);
  OpenCommand open = Off();
  open.window_tokens = 16;
  Open(client, open);
  client.Append(std::string(10, 'x'));
  engine_.FailNext<RefreshWork>(absl::ResourceExhaustedError("out of memory"));
  const uint64_t failed = client.Generate(50);
  const uint64_t next = client.Generate(50);
  Run(client);
  EXPECT_THAT(client.ErrorOf(failed), HasCode(StatusCode::kResourceExhausted));
  EXPECT_THAT(client.All<DeltaEvent>(failed), SizeIs(6));
  EXPECT_THAT(client.All<GeneratedEvent>(failed), SizeIs(0));
  EXPECT_EQ(client.All<GeneratedEvent>(next)[0].usage.generated_tokens, 50u);
}

TEST_F(SessionTest, ARefreshThatFailsWhileNothingRunsIsNotTriedForEver) {
  SessionClient client(&manager_);
  OpenCommand open = Off();
  open.window_tokens = 16;
  Open(client, open);
  engine_.FailNext<RefreshWork>(absl::InternalError("no"));
  client.Append(std::string(16, 'x'));
  Run(client);
  EXPECT_THAT(engine_.SubmittedOf<RefreshWork>(), SizeIs(1));
  const uint64_t next = client.Append("y");
  Run(client);
  EXPECT_THAT(client.All<AppendedEvent>(next), SizeIs(1));
}

// ---- The slow reader -------------------------------------------------------------------------

class SlowReaderTest : public SessionFixture {
 protected:
  static SessionManager::Options FewEvents() {
    SessionManager::Options options;
    options.limits.outbox_events = 8;
    options.limits.idle_timeout_seconds = 60;
    return options;
  }
  SlowReaderTest() : SessionFixture(FewEvents()) {}
};

TEST_F(SlowReaderTest, AFullOutboxPausesTheGenerationAndReadingResumesIt) {
  SessionClient client(&manager_);
  Open(client, Off());
  client.Append("ab");
  Run(client);
  const uint64_t id = client.Generate(30);
  engine_.RunUntilIdle();
  EXPECT_THAT(engine_.stream(0), SizeIs(2 + 8)) << "as far as the outbox has room";
  Run(client);
  EXPECT_EQ(client.All<GeneratedEvent>(id)[0].usage.generated_tokens, 30u);
}

TEST_F(SlowReaderTest, AReaderThatKeepsUpNeverStallsTheRow) {
  SessionClient client(&manager_);
  Open(client, Off());
  client.Append("ab");
  Run(client);
  client.Generate(40);
  Run(client);
  EXPECT_EQ(client.All<GeneratedEvent>()[0].usage.generated_tokens, 40u);
  EXPECT_EQ(engine_.pauses(), 0);
}

TEST_F(SlowReaderTest, AnAppendWithManyReportsWaitsForItsReader) {
  SessionClient client(&manager_);
  Open(client);
  AppendCommand append = TextAppend(std::string(200, 'x'));
  append.token_logprobs = true;
  const uint64_t id = client.Send(append);
  engine_.RunUntilIdle();
  EXPECT_LT(engine_.stream(0).size(), 200u);
  Run(client);
  EXPECT_TRUE(client.All<AppendedEvent>(id).back().done);
  EXPECT_THAT(engine_.stream(0), SizeIs(200));
}

TEST_F(SlowReaderTest, APausedGenerationCanBeCancelled) {
  SessionClient client(&manager_);
  Open(client, Off());
  client.Append("ab");
  Run(client);
  const uint64_t id = client.Generate(30);
  engine_.RunUntilIdle();
  client.Cancel(id);
  Run(client);
  EXPECT_EQ(client.All<GeneratedEvent>(id)[0].reason, FinishReason::kCancelled);
}

TEST_F(SlowReaderTest, AReaderThatStopsReadingIsIdleInTheEnd) {
  SessionClient client(&manager_);
  Open(client, Off());
  client.Append("ab");
  client.Generate(30);
  engine_.RunUntilIdle();
  clock_.Advance(61);
  manager_.ExpireSessions();
  engine_.RunUntilIdle();
  client.ReadAll();
  EXPECT_THAT(*client.final_status(), HasCode(StatusCode::kAborted));
}

// ---- Ends ------------------------------------------------------------------------------------

TEST_F(SessionTest, HalfCloseFinishesTheQueuedCommandsAndThenTheStream) {
  SessionClient client(&manager_);
  Open(client);
  client.Append("ab");
  const uint64_t id = client.Generate(5);
  client.session().HalfClose();
  Run(client);
  EXPECT_THAT(client.All<GeneratedEvent>(id), SizeIs(1));
  ASSERT_TRUE(client.final_status());
  EXPECT_THAT(*client.final_status(), IsOk());
  const auto closed = client.All<ClosedEvent>(0);
  ASSERT_THAT(closed, SizeIs(1));
  EXPECT_EQ(closed[0].reason, "half_closed");
  EXPECT_EQ(closed[0].usage.prompt_tokens, 2u);
  EXPECT_EQ(closed[0].usage.generated_tokens, 5u);
  EXPECT_EQ(closed[0].freed_bytes, 150u);
  EXPECT_TRUE(std::holds_alternative<ClosedEvent>(client.events().back().body));
  EXPECT_EQ(engine_.free_rows(), 2);
}

TEST_F(SessionTest, HalfCloseDuringOpeningStillOpensAndCloses) {
  SessionClient client(&manager_);
  client.Send(SmallChunks());
  client.session().HalfClose();
  Run(client);
  EXPECT_THAT(client.All<OpenedEvent>(), SizeIs(1));
  EXPECT_THAT(*client.final_status(), IsOk());
}

TEST_F(SessionTest, CloseEndsAtOnceAndAnswersWhatItCancels) {
  SessionClient client(&manager_);
  Open(client);
  client.Append("ab");
  Run(client);
  const uint64_t running = client.Generate(1000);
  engine_.Step();
  engine_.Step();
  const uint64_t waiting = client.Append("cd");
  const uint64_t generate = client.Generate(5);
  const uint64_t close = client.Close();
  const uint64_t late = client.Append("late");
  Run(client);
  EXPECT_EQ(client.All<GeneratedEvent>(running)[0].reason, FinishReason::kCancelled);
  EXPECT_EQ(client.All<GeneratedEvent>(generate)[0].reason, FinishReason::kCancelled);
  EXPECT_THAT(client.ErrorOf(waiting), HasCode(StatusCode::kCancelled));
  EXPECT_THAT(client.ErrorOf(late), HasCode(StatusCode::kFailedPrecondition));
  EXPECT_EQ(client.All<ClosedEvent>(close)[0].reason, "closed");
  EXPECT_THAT(*client.final_status(), IsOk());
  EXPECT_EQ(engine_.free_rows(), 2);
}

TEST_F(SessionTest, AVanishedClientsRowIsFreed) {
  SessionClient client(&manager_);
  Open(client);
  client.Append("ab");
  client.Generate(1000);
  for (int i = 0; i < 10; ++i) engine_.Step();
  client.session().outbox().Abandon();
  client.session().End(CloseReason::kCancelled, absl::CancelledError("gone"));
  EXPECT_EQ(manager_.open_sessions(), 1) << "until its row is free";
  engine_.RunUntilIdle();
  EXPECT_EQ(manager_.open_sessions(), 0);
  EXPECT_EQ(engine_.free_rows(), 2);
  EXPECT_EQ(metrics_.closed[static_cast<size_t>(CloseReason::kCancelled)].value(), 1u);
}

TEST_F(SessionTest, AnEndDuringOpeningGivesTheRowBackAsSoonAsItComes) {
  SessionClient client(&manager_);
  client.Send(SmallChunks());
  client.session().End(CloseReason::kDeadline, absl::DeadlineExceededError("late"));
  Run(client);
  EXPECT_THAT(*client.final_status(), HasCode(StatusCode::kDeadlineExceeded));
  EXPECT_THAT(client.All<OpenedEvent>(), SizeIs(0));
  EXPECT_EQ(engine_.free_rows(), 2);
}

TEST_F(SessionTest, TheFirstEndDecidesTheStatus) {
  SessionClient client(&manager_);
  Open(client);
  client.Close();
  client.session().End(CloseReason::kCancelled, absl::CancelledError("later"));
  Run(client);
  EXPECT_THAT(*client.final_status(), IsOk());
  EXPECT_EQ(metrics_.closed[static_cast<size_t>(CloseReason::kClosed)].value(), 1u);
  EXPECT_EQ(metrics_.closed[static_cast<size_t>(CloseReason::kCancelled)].value(), 0u);
}

TEST_F(SessionTest, AFailedEngineEndsTheStreamUnavailable) {
  SessionClient client(&manager_);
  Open(client);
  client.Append("ab");
  const uint64_t id = client.Generate(1000);
  for (int i = 0; i < 8; ++i) engine_.Step();
  engine_.FailDevice(absl::InternalError("ecc error"));
  Run(client);
  EXPECT_EQ(client.All<GeneratedEvent>(id)[0].reason, FinishReason::kCancelled);
  EXPECT_THAT(*client.final_status(), StatusIs(StatusCode::kUnavailable, HasSubstr("ecc error")));
  EXPECT_EQ(metrics_.closed[static_cast<size_t>(CloseReason::kEngineFailed)].value(), 1u);
}

// ---- Limits ----------------------------------------------------------------------------------

class SessionLimitsTest : public SessionFixture {
 protected:
  static SessionManager::Options Tight() {
    SessionManager::Options options;
    options.limits.max_append_tokens = 10;
    options.limits.max_outstanding_commands = 3;
    return options;
  }
  SessionLimitsTest() : SessionFixture(Tight()) {}
};

TEST_F(SessionLimitsTest, TextIsMeasuredInTokens) {
  SessionClient client(&manager_);
  Open(client);
  const uint64_t fits = client.Append(std::string(10, 'x'));
  const uint64_t too_long = client.Append(std::string(11, 'x'));
  Run(client);
  EXPECT_THAT(client.All<AppendedEvent>(fits), SizeIs(1));
  EXPECT_THAT(client.ErrorOf(too_long),
              StatusIs(StatusCode::kInvalidArgument, AllOf(HasSubstr("11"), HasSubstr("10"))));
}

TEST_F(SessionLimitsTest, TooManyOutstandingCommandsAreRefusedOneByOne) {
  SessionClient client(&manager_);
  Open(client);
  std::vector<uint64_t> ids;
  for (int i = 0; i < 5; ++i) ids.push_back(client.Append("a"));
  Run(client);
  EXPECT_THAT(client.All<AppendedEvent>(), SizeIs(3));
  for (const uint64_t id : {ids[3], ids[4]}) {
    EXPECT_THAT(client.ErrorOf(id), StatusIs(StatusCode::kResourceExhausted,
                                             HasSubstr("max_outstanding_commands is 3")));
  }
}

}  // namespace
}  // namespace mayfly
