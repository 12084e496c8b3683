// How a session learns beside its commands (mode parallel), and how learning waits where it would
// slow tokens (either mode).

#include <algorithm>
#include <string>
#include <vector>

#include "session/append_task.h"
#include "session/session.h"
#include "tests/session/session_fixture.h"

namespace mayfly {
namespace {

using absl::StatusCode;
using testing::Contains;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

class SessionParallelTest : public SessionFixture {
 protected:
  static OpenCommand Parallel(int max_lag_chunks = 1) {
    OpenCommand open = SmallChunks();
    open.adaptation.mode = UpdateMode::kParallel;
    open.adaptation.max_lag_chunks = max_lag_chunks;
    return open;
  }
  std::vector<TokenSpan> LearnedSpans() const {
    std::vector<TokenSpan> spans;
    for (const UpdateWork& update : engine_.SubmittedOf<UpdateWork>()) {
      spans.push_back({update.begin, update.begin + update.tokens.size()});
    }
    return spans;
  }
  static std::vector<uint64_t> Versions(const SessionClient& client) {
    std::vector<uint64_t> versions;
    for (const DeltaEvent& event : client.All<DeltaEvent>()) {
      for (const GeneratedToken& token : event.delta.tokens) {
        versions.push_back(token.adapter_version);
      }
    }
    return versions;
  }
  static std::string Alphabet(int begin, int end) {
    std::string text;
    for (int i = begin; i < end; ++i) text += static_cast<char>('a' + i % 26);
    return text;
  }
};

// ---- A generation and its updates ---------------------------------------------------------------

TEST_F(SessionParallelTest, AGenerationGoesOnBesideItsUpdateUpToTheLagBound) {
  SessionClient client(&manager_);
  Open(client, Parallel(2));
  engine_.HoldUpdates(true);
  client.Append("ab");
  client.Generate(40);
  Run(client);
  EXPECT_EQ(client.Text(), Alphabet(2, 24)) << "the chunk in hand and two more";
  EXPECT_THAT(Versions(client), Each(0));
  EXPECT_THAT(LearnedSpans(), ElementsAre(TokenSpan{0, 8}));
  EXPECT_EQ(metrics_.lag_chunks.value(), 3);

  engine_.HoldUpdates(false);
  Run(client);
  EXPECT_EQ(client.Text(), Alphabet(2, 42));
  const auto versions = Versions(client);
  EXPECT_TRUE(std::is_sorted(versions.begin(), versions.end()));
  EXPECT_GE(versions.back(), 2u);
  EXPECT_THAT(engine_.SubmittedOf<GenerateWork>(), SizeIs(1));
  EXPECT_THAT(LearnedSpans(), SizeIs(5)) << "one by one";
  EXPECT_EQ(client.All<UpdateEvent>()[0].lag_chunks, 1);
  EXPECT_EQ(client.All<UpdateEvent>()[1].lag_chunks, 2);
}

TEST_F(SessionParallelTest, AGenerationThatKeepsAheadOfItsUpdatesNeverPauses) {
  SessionClient client(&manager_);
  Open(client, Parallel(2));
  engine_.SetUpdateSteps(3);
  client.Append("ab");
  client.Generate(58);
  Run(client);
  EXPECT_EQ(client.Text(), Alphabet(2, 60));
  EXPECT_EQ(engine_.pauses(), 0);
  EXPECT_GT(engine_.most_tokens_beside(), 8u) << "it went on beside its updates";
  const auto versions = Versions(client);
  for (uint64_t version = 0; version < 7; ++version) EXPECT_THAT(versions, Contains(version));
}

TEST_F(SessionParallelTest, WithoutLagItWaitsForEveryUpdate) {
  SessionClient client(&manager_);
  Open(client, Parallel(0));
  engine_.HoldUpdates(true);
  client.Append("ab");
  client.Generate(20);
  Run(client);
  EXPECT_EQ(client.Text(), Alphabet(2, 8));
  engine_.HoldUpdates(false);
  Run(client);
  EXPECT_EQ(client.Text(), Alphabet(2, 22));
  EXPECT_EQ(engine_.most_tokens_beside(), 0u);
}

TEST_F(SessionParallelTest, AnAppendGoesOnBesideItsUpdateToo) {
  SessionClient client(&manager_);
  Open(client, Parallel(1));
  engine_.HoldUpdates(true);
  const uint64_t id = client.Append(std::string(30, 'x'));
  Run(client);
  EXPECT_EQ(engine_.tokens_taken(), 16u);
  engine_.HoldUpdates(false);
  Run(client);
  EXPECT_TRUE(client.All<AppendedEvent>(id).back().done);
  EXPECT_THAT(LearnedSpans(), SizeIs(3));
}

TEST(AppendTaskTest, TokensCarryTheVersionThatScoredThem) {
  AppendTask task({});
  ASSERT_THAT(task.SetTokens({1, 2}), IsOk());
  Scored part;
  part.done = true;
  part.tokens_done = 2;
  part.adapter_version = 7;
  for (const HistoryToken& token : task.OnScored(part)) EXPECT_EQ(token.adapter_version, 7u);
}

TEST_F(SessionParallelTest, AChunkIsScoredBeforeItIsLearnedAndRolledBackIfItDoesHarm) {
  FakeEngine::Script script;
  script.logprob = [](uint64_t, uint64_t version) { return version == 1 ? -2.0f : -1.0f; };
  script.base_logprob = [](uint64_t) { return -1.0f; };
  engine_.SetScript(script);
  SessionClient client(&manager_);
  OpenCommand open = Parallel(0);
  open.adaptation.receipt = true;
  Open(client, open);
  client.Append("ab");
  client.Generate(30);
  Run(client);
  const auto receipts = client.All<UpdateEvent>();
  ASSERT_THAT(receipts, SizeIs(4));
  EXPECT_EQ(receipts[0].result.outcome, UpdateOutcome::kApplied);
  EXPECT_EQ(receipts[1].result.outcome, UpdateOutcome::kRolledBack);
  EXPECT_EQ(receipts[2].result.outcome, UpdateOutcome::kApplied);
  EXPECT_EQ(receipts[1].nll, 2.0);
  EXPECT_EQ(receipts[1].base_nll, 1.0);
  EXPECT_THAT(engine_.SubmittedOf<RollBackWork>(), SizeIs(1));
}

TEST_F(SessionParallelTest, AnUpdateThatFailsIsToldAndTheGenerationGoesOn) {
  SessionClient client(&manager_);
  Open(client, Parallel());
  engine_.FailNext<UpdateWork>(absl::ResourceExhaustedError("out of memory"));
  client.Append("ab");
  client.Generate(20);
  Run(client);
  EXPECT_EQ(client.Text(), Alphabet(2, 22));
  const auto receipts = client.All<UpdateEvent>();
  ASSERT_THAT(receipts, SizeIs(2));
  EXPECT_EQ(receipts[0].result.outcome, UpdateOutcome::kFailed);
  EXPECT_EQ(receipts[1].result.outcome, UpdateOutcome::kApplied);
}

TEST_F(SessionParallelTest, AClientThatReadsNothingStopsItsOwnLearningAndLosesNoReceipt) {
  SessionClient client(&manager_);
  Open(client, Parallel());
  client.Append("ab");
  client.Generate(1000);
  engine_.RunUntilIdle();
  EXPECT_LT(engine_.tokens_taken(), 400u);
  Run(client);
  EXPECT_EQ(engine_.tokens_taken(), 1002u);
  EXPECT_THAT(client.All<UpdateEvent>(), SizeIs(1002 / kChunk));
}

// ---- The window -----------------------------------------------------------------------------

TEST_F(SessionParallelTest, TheWindowIsComputedAgainWhileTheGenerationRuns) {
  SessionClient client(&manager_);
  Open(client, Parallel());
  client.Append("ab");
  const uint64_t id = client.Generate(20);
  while (engine_.SubmittedOf<RefreshWork>().empty()) engine_.Step();
  EXPECT_THAT(client.All<GeneratedEvent>(id), IsEmpty());
  EXPECT_EQ(engine_.pauses(), 0);
  Run(client);
  EXPECT_EQ(client.Text(), Alphabet(2, 22));
  EXPECT_THAT(engine_.SubmittedOf<RefreshWork>(), SizeIs(2));
  EXPECT_LT(engine_.window_fill(0), 22);
}

TEST_F(SessionParallelTest, AFullWindowWaitsForTheUpdateInFlight) {
  SessionClient client(&manager_);
  OpenCommand open = Parallel(1);
  open.window_tokens = 22;
  open.adaptation.kv_policy = KvPolicy::kKeep;
  Open(client, open);
  engine_.SetDefersLearning(true);
  client.Append(std::string(9, 'x'));
  Run(client);
  engine_.HoldUpdates(true);
  engine_.SetDefersLearning(false);
  client.Generate(30);
  Run(client);
  EXPECT_EQ(engine_.window_fill(0), 22) << "full, short of the bound of 24";
  EXPECT_THAT(engine_.SubmittedOf<RefreshWork>(), IsEmpty());
  engine_.HoldUpdates(false);
  Run(client);
  EXPECT_EQ(client.Text(), Alphabet(9, 39));
  EXPECT_FALSE(engine_.SubmittedOf<RefreshWork>().empty());
}

TEST_F(SessionParallelTest, ARefreshThatFailsFailsTheGenerationAndIsTriedAgainForTheNextCommand) {
  SessionClient client(&manager_);
  Open(client, Parallel());
  engine_.FailNext<RefreshWork>(absl::ResourceExhaustedError("out of memory"));
  client.Append("ab");
  const uint64_t generate = client.Generate(30);
  Run(client);
  EXPECT_THAT(client.ErrorOf(generate), StatusIs(StatusCode::kResourceExhausted, "out of memory"));
  EXPECT_THAT(engine_.SubmittedOf<RefreshWork>(), SizeIs(1));
  const uint64_t next = client.Generate(10);
  Run(client);
  EXPECT_THAT(client.All<GeneratedEvent>(next), SizeIs(1));
  EXPECT_GE(engine_.SubmittedOf<RefreshWork>().size(), 2u);
}

TEST_F(SessionParallelTest, ARefreshThatFailsFailsTheUpdateThatNeedsIt) {
  SessionClient client(&manager_);
  Open(client, Parallel());
  engine_.FailNext<RefreshWork>(absl::ResourceExhaustedError("out of memory"));
  client.Append(std::string(10, 'x'));
  Run(client);
  // It is tried when the command comes, and when its update is due.
  for (int i = 0; i < 2; ++i) {
    engine_.FailNext<RefreshWork>(absl::ResourceExhaustedError("still out of memory"));
  }
  const uint64_t update = client.Adapt(AdaptAction::kUpdateNow);
  Run(client);
  EXPECT_THAT(client.ErrorOf(update), HasCode(StatusCode::kResourceExhausted));
  const uint64_t again = client.Adapt(AdaptAction::kUpdateNow);
  Run(client);
  EXPECT_THAT(client.All<AdaptedEvent>(again), SizeIs(1));
  EXPECT_THAT(LearnedSpans(), ElementsAre(TokenSpan{0, 8}, TokenSpan{8, 10}));
}

// ---- Commands and ends while an update is in flight ---------------------------------------------

TEST_F(SessionParallelTest, ACancelledGenerationLeavesItsUpdateAlone) {
  SessionClient client(&manager_);
  Open(client, Parallel());
  engine_.HoldUpdates(true);
  client.Append("ab");
  const uint64_t id = client.Generate(50);
  Run(client);
  client.Cancel(id);
  Run(client);
  EXPECT_EQ(client.All<GeneratedEvent>(id)[0].reason, FinishReason::kCancelled);
  engine_.HoldUpdates(false);
  Run(client);
  for (const UpdateEvent& receipt : client.All<UpdateEvent>()) {
    EXPECT_EQ(receipt.result.outcome, UpdateOutcome::kApplied);
  }
  EXPECT_THAT(client.All<UpdateEvent>(), SizeIs(2));
}

TEST_F(SessionParallelTest, AdaptWaitsForTheChunksBeforeIt) {
  for (const AdaptAction action :
       {AdaptAction::kPause, AdaptAction::kReset, AdaptAction::kUpdateNow}) {
    SessionClient client(&manager_);
    Open(client, Parallel());
    engine_.HoldUpdates(true);
    client.Append(std::string(11, 'x'));
    const uint64_t id = client.Adapt(action);
    Run(client);
    EXPECT_THAT(client.All<AdaptedEvent>(id), IsEmpty());
    engine_.HoldUpdates(false);
    Run(client);
    ASSERT_THAT(client.All<AdaptedEvent>(id), SizeIs(1));
    EXPECT_EQ(client.All<AdaptedEvent>(id)[0].adapter_version,
              action == AdaptAction::kPause ? 1u : 2u);
    client.Close();
    Run(client);
  }
}

TEST_F(SessionParallelTest, AnUpdateNowCanBeCancelledWhileItIsInFlight) {
  SessionClient client(&manager_);
  Open(client, Parallel());
  engine_.HoldUpdates(true);
  client.Append(std::string(5, 'x'));
  const uint64_t id = client.Adapt(AdaptAction::kUpdateNow);
  Run(client);
  client.Cancel(id);
  const uint64_t next = client.Append(std::string(2, 'y'));
  Run(client);
  EXPECT_THAT(client.ErrorOf(id), HasCode(StatusCode::kCancelled));
  EXPECT_EQ(client.All<UpdateEvent>().at(0).result.outcome, UpdateOutcome::kSkipped);
  EXPECT_THAT(client.All<AppendedEvent>(next), SizeIs(1));
  EXPECT_EQ(metrics_.lag_chunks.value(), 0);
}

TEST_F(SessionParallelTest, AnAdaptThatStillWaitsIsCancelledWithoutTheUpdateBeforeIt) {
  SessionClient client(&manager_);
  Open(client, Parallel());
  engine_.HoldUpdates(true);
  client.Append(std::string(8, 'x'));
  const uint64_t id = client.Adapt(AdaptAction::kUpdateNow);
  Run(client);
  client.Cancel(id);
  engine_.HoldUpdates(false);
  Run(client);
  EXPECT_THAT(client.ErrorOf(id), HasCode(StatusCode::kCancelled));
  EXPECT_EQ(client.All<UpdateEvent>().at(0).result.outcome, UpdateOutcome::kApplied);
}

TEST_F(SessionParallelTest, CloseDoesNotWaitForTheUpdateInFlight) {
  SessionClient client(&manager_);
  Open(client, Parallel());
  engine_.HoldUpdates(true);
  client.Append("ab");
  client.Generate(50);
  Run(client);
  client.Close();
  Run(client);
  ASSERT_TRUE(client.final_status());
  EXPECT_THAT(client.All<UpdateEvent>(), IsEmpty());
  EXPECT_EQ(engine_.free_rows(), 2);
}

TEST_F(SessionParallelTest, HalfCloseFinishesItsCommandsButNotTheUpdateThatNobodyReads) {
  SessionClient client(&manager_);
  Open(client, Parallel());
  engine_.HoldUpdates(true);
  client.Append("ab");
  const uint64_t id = client.Generate(10);
  client.session().HalfClose();
  Run(client);
  EXPECT_EQ(client.All<GeneratedEvent>(id)[0].reason, FinishReason::kLength);
  ASSERT_TRUE(client.final_status());
  EXPECT_THAT(*client.final_status(), IsOk());
  EXPECT_THAT(client.All<UpdateEvent>(), IsEmpty());
}

TEST_F(SessionParallelTest, HalfCloseFinishesTheUpdateThatTheClientAskedFor) {
  SessionClient client(&manager_);
  Open(client, Parallel());
  engine_.HoldUpdates(true);
  client.Append("abcde");
  const uint64_t id = client.Adapt(AdaptAction::kUpdateNow);
  client.session().HalfClose();
  Run(client);
  EXPECT_FALSE(client.final_status());
  engine_.HoldUpdates(false);
  Run(client);
  EXPECT_THAT(client.All<AdaptedEvent>(id), SizeIs(1));
  EXPECT_EQ(client.All<ClosedEvent>()[0].updates_applied, 1u);
}

// ---- Learning that waits for faster tokens
// --------------------------------------------------------

TEST_F(SessionParallelTest, TheEngineLearnsWhoIsServedAndHowFast) {
  SessionClient client(&manager_, "somebody");
  OpenCommand open = Parallel();
  open.adaptation.target_inter_token_ms = 25;
  Open(client, open);
  EXPECT_EQ(engine_.opened()[0].tenant, "somebody");
  EXPECT_EQ(engine_.opened()[0].target_inter_token_seconds, 0.025);
}

TEST_F(SessionParallelTest, ChunksWaitAreMergedAreSkippedAndAreLearnedAgain) {
  for (const UpdateMode mode : {UpdateMode::kCascaded, UpdateMode::kParallel}) {
    const uint64_t deferred = metrics_.chunks_deferred.value();
    const uint64_t skipped = metrics_.chunks_skipped.value();
    SessionClient client(&manager_);
    OpenCommand open = Parallel();
    open.adaptation.mode = mode;
    Open(client, open);
    engine_.SetDefersLearning(true);
    client.Append("ab");
    client.Generate(32);
    Run(client);
    EXPECT_EQ(client.Text(), Alphabet(2, 34)) << "it does not wait";
    EXPECT_THAT(client.All<UpdateEvent>(), IsEmpty());
    EXPECT_EQ(metrics_.lag_chunks.value(), 4);
    EXPECT_EQ(metrics_.chunks_deferred.value() - deferred, 4u);

    client.Generate(8);
    Run(client);
    ASSERT_THAT(client.All<UpdateEvent>(), SizeIs(1)) << "one too many";
    EXPECT_EQ(client.All<UpdateEvent>()[0].result.outcome, UpdateOutcome::kSkipped);
    EXPECT_THAT(client.All<UpdateEvent>()[0].result.reason, HasSubstr("target_inter_token_ms"));
    EXPECT_EQ(metrics_.chunks_skipped.value() - skipped, 1u);

    engine_.SetDefersLearning(false);
    client.Generate(6);
    Run(client);
    const auto receipts = client.All<UpdateEvent>();
    ASSERT_THAT(receipts, SizeIs(3));
    EXPECT_EQ(receipts[1].merged_chunks, 4);
    EXPECT_EQ(receipts[1].tokens, 32);
    EXPECT_EQ(receipts[1].chunk_index, 1u);
    EXPECT_EQ(receipts[2].merged_chunks, 1) << "then chunk by chunk";
    EXPECT_EQ(receipts[2].chunk_index, 5u);
    client.Close();
    Run(client);
  }
}

TEST_F(SessionParallelTest, AnAppendDoesNotWaitEither) {
  SessionClient client(&manager_);
  Open(client);
  engine_.SetDefersLearning(true);
  const uint64_t id = client.Append(std::string(20, 'x'));
  Run(client);
  EXPECT_TRUE(client.All<AppendedEvent>(id).back().done);
  EXPECT_THAT(LearnedSpans(), IsEmpty());
}

TEST_F(SessionParallelTest, AnIdleSessionLearnsWhatWaitedOnceItMay) {
  for (const UpdateMode mode : {UpdateMode::kCascaded, UpdateMode::kParallel}) {
    SessionClient client(&manager_);
    OpenCommand open = Parallel();
    open.adaptation.mode = mode;
    Open(client, open);
    engine_.SetDefersLearning(true);
    client.Append(std::string(18, 'x'));
    Run(client);
    manager_.ExpireSessions();
    Run(client);
    EXPECT_THAT(client.All<UpdateEvent>(), IsEmpty());
    engine_.SetDefersLearning(false);
    manager_.ExpireSessions();
    Run(client);
    ASSERT_THAT(client.All<UpdateEvent>(), SizeIs(1));
    EXPECT_EQ(client.All<UpdateEvent>()[0].tokens, 16);
    client.Close();
    Run(client);
  }
}

TEST_F(SessionParallelTest, UpdateNowIsNotDeferred) {
  SessionClient client(&manager_);
  Open(client, Parallel());
  engine_.SetDefersLearning(true);
  client.Append(std::string(11, 'x'));
  const uint64_t id = client.Adapt(AdaptAction::kUpdateNow);
  Run(client);
  EXPECT_THAT(client.All<AdaptedEvent>(id), SizeIs(1));
  EXPECT_THAT(LearnedSpans(), ElementsAre(TokenSpan{0, 8}, TokenSpan{8, 11}));
}

TEST_F(SessionParallelTest, HalfCloseDoesNotWaitForLearningToBeAllowed) {
  SessionClient client(&manager_);
  Open(client);
  engine_.SetDefersLearning(true);
  client.Append(std::string(8, 'x'));
  client.session().HalfClose();
  Run(client);
  ASSERT_TRUE(client.final_status());
  EXPECT_THAT(*client.final_status(), IsOk());
}

TEST_F(SessionParallelTest, WaitingChunksAreNoTrainingInTheGapsOfTokens) {
  SessionClient client(&manager_);
  Open(client);
  engine_.SetDefersLearning(true);
  client.Append("ab");
  client.Generate(20);
  Run(client);
  EXPECT_EQ(metrics_.inter_token_seconds_training.bucket(0), 0u);
}

}  // namespace
}  // namespace mayfly
