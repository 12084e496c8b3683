// How a session learns: at which tokens, from which, in which order with everything else.

#include <numeric>
#include <string>
#include <vector>

#include "session/session.h"
#include "tests/session/session_fixture.h"
#include "tests/support/observations.h"

namespace mayfly {
namespace {

using absl::StatusCode;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Optional;
using testing::SizeIs;

class SessionLearningTest : public SessionFixture {
 protected:
  static OpenCommand WithReceipt() {
    OpenCommand open = SmallChunks();
    open.adaptation.receipt = true;
    return open;
  }
  // An adapter whose loss lies `excess` nats above the base's, until version `until`.
  void MakeAdapterWorse(float excess, uint64_t until = 1000) {
    FakeEngine::Script script;
    script.logprob = [excess, until](uint64_t, uint64_t version) {
      return version > 0 && version < until ? -1.0f - excess : -1.0f;
    };
    script.base_logprob = [](uint64_t) { return -1.0f; };
    engine_.SetScript(script);
  }
  std::vector<TokenSpan> LearnedSpans() const {
    std::vector<TokenSpan> spans;
    for (const UpdateWork& update : engine_.SubmittedOf<UpdateWork>()) {
      spans.push_back({update.begin, update.begin + update.tokens.size()});
    }
    return spans;
  }
};

// ---- Chunks ----------------------------------------------------------------------------------

TEST_F(SessionLearningTest, EveryCompleteChunkIsLearnedOnceWhereverItsTokensComeFrom) {
  SessionClient client(&manager_);
  Open(client);
  client.Append(std::string(5, 'x'));
  client.Generate(14);
  client.Append(std::string(6, 'y'));
  Run(client);
  EXPECT_THAT(LearnedSpans(), ElementsAre(TokenSpan{0, 8}, TokenSpan{8, 16}, TokenSpan{16, 24}));
  const auto receipts = client.All<UpdateEvent>(0);
  ASSERT_THAT(receipts, SizeIs(3));
  for (size_t i = 0; i < receipts.size(); ++i) {
    EXPECT_EQ(receipts[i].chunk_index, i);
    EXPECT_EQ(receipts[i].tokens, kChunk);
    EXPECT_EQ(receipts[i].result.outcome, UpdateOutcome::kApplied);
    EXPECT_EQ(receipts[i].result.adapter_version, i + 1);
    EXPECT_EQ(receipts[i].learning_rate, 2e-3);
  }
}

TEST_F(SessionLearningTest, AGenerationGoesOnAcrossChunksUnderTheNewVersion) {
  SessionClient client(&manager_);
  Open(client);
  client.Append("ab");
  client.Generate(20);
  Run(client);
  EXPECT_THAT(engine_.SubmittedOf<GenerateWork>(), SizeIs(1));
  EXPECT_EQ(client.Text(), "cdefghijklmnopqrstuv");
  std::vector<uint64_t> versions;
  for (const DeltaEvent& event : client.All<DeltaEvent>()) {
    versions.push_back(event.delta.tokens.at(0).adapter_version);
  }
  EXPECT_THAT(std::vector<uint64_t>(versions.begin(), versions.begin() + 6), Each(0));
  EXPECT_THAT(std::vector<uint64_t>(versions.begin() + 6, versions.begin() + 14), Each(1));
  EXPECT_THAT(std::vector<uint64_t>(versions.begin() + 14, versions.end()), Each(2));
}

TEST_F(SessionLearningTest, AChunkIsScoredUnderTheAdapterAsItWasBeforeItIsLearned) {
  SessionClient client(&manager_);
  Open(client);
  FakeEngine::Script script;
  script.logprob = [](uint64_t, uint64_t version) { return -10.0f + static_cast<float>(version); };
  engine_.SetScript(script);
  AppendCommand append;
  append.input = TextInput(std::string(24, 'x'));
  append.score = true;
  const uint64_t id = client.Send(append);
  Run(client);
  EXPECT_THAT(client.All<AppendedEvent>(id).back().nll, Optional(7 * 10.0 + 8 * 9.0 + 8 * 8.0));
}

TEST_F(SessionLearningTest, AChunkComesWithItsContextAndItsWeights) {
  SessionClient client(&manager_);
  OpenCommand open = SmallChunks();
  open.adaptation.output_weight = 0.5;
  Open(client, open);
  client.Append("01234567");
  AppendCommand secret;
  secret.input = TextInput("ABC");
  secret.learn = false;
  client.Send(secret);
  client.Append("DE");
  client.Generate(3);
  Run(client);
  const auto updates = engine_.SubmittedOf<UpdateWork>();
  ASSERT_THAT(updates, SizeIs(2));
  EXPECT_THAT(updates[0].weights, ElementsAre(0, 1, 1, 1, 1, 1, 1, 1));
  EXPECT_THAT(updates[0].context, IsEmpty());
  EXPECT_THAT(updates[1].weights, ElementsAre(0, 0, 0, 1, 1, .5, .5, .5));
  EXPECT_THAT(updates[1].context, ElementsAre('4', '5', '6', '7'));
}

TEST_F(SessionLearningTest, AChunkWithNothingToLearnIsSkippedWithAReason) {
  SessionClient client(&manager_);
  OpenCommand open = SmallChunks();
  open.adaptation.learn_from = LearnFrom::kOutput;
  Open(client, open);
  client.Append(std::string(8, 'x'));
  client.Generate(8);
  Run(client);
  const auto receipts = client.All<UpdateEvent>();
  ASSERT_THAT(receipts, SizeIs(2));
  EXPECT_EQ(receipts[0].result.outcome, UpdateOutcome::kSkipped);
  EXPECT_THAT(receipts[0].result.reason, HasSubstr("may be learned"));
  EXPECT_EQ(receipts[1].result.outcome, UpdateOutcome::kApplied);
  EXPECT_EQ(receipts[1].chunk_index, 1u);
  EXPECT_EQ(metrics_.updates[static_cast<size_t>(UpdateOutcome::kSkipped)].value(), 1u);
}

TEST_F(SessionLearningTest, WarmUpRaisesTheRateChunkByChunk) {
  SessionClient client(&manager_);
  OpenCommand open = SmallChunks();
  open.adaptation.warmup_chunks = 2;
  open.adaptation.learning_rate = 0.5;
  Open(client, open);
  client.Append(std::string(32, 'x'));
  Run(client);
  std::vector<double> rates;
  for (const auto& update : engine_.SubmittedOf<UpdateWork>()) {
    rates.push_back(update.optimizer.learning_rate);
  }
  EXPECT_THAT(rates, ElementsAre(0, 0.25, 0.5, 0.5));
}

TEST_F(SessionLearningTest, PresetOffLearnsNothing) {
  SessionClient client(&manager_);
  Open(client, Off());
  client.Append(std::string(60, 'x'));
  client.Generate(60);
  Run(client);
  EXPECT_THAT(engine_.SubmittedOf<UpdateWork>(), IsEmpty());
  EXPECT_THAT(client.All<UpdateEvent>(), IsEmpty());
}

TEST_F(SessionLearningTest, AnUpdateThatFailsIsToldAndTheSessionGoesOn) {
  SessionClient client(&manager_);
  Open(client);
  engine_.FailNext<UpdateWork>(absl::ResourceExhaustedError("out of memory"));
  const uint64_t id = client.Append(std::string(20, 'x'));
  Run(client);
  const auto receipts = client.All<UpdateEvent>();
  ASSERT_THAT(receipts, SizeIs(2));
  EXPECT_EQ(receipts[0].result.outcome, UpdateOutcome::kFailed);
  EXPECT_EQ(receipts[0].result.reason, "out of memory");
  EXPECT_EQ(receipts[1].result.outcome, UpdateOutcome::kApplied);
  EXPECT_TRUE(client.All<AppendedEvent>(id).back().done);
}

TEST_F(SessionLearningTest, TheTotalsCountEveryEpochAndOnlyWhatWasApplied) {
  SessionClient client(&manager_);
  OpenCommand open = SmallChunks();
  open.adaptation.epochs = 3;
  Open(client, open);
  client.Append(std::string(8, 'x'));
  const uint64_t generate = client.Generate(9);
  Run(client);
  engine_.FailNext<UpdateWork>(absl::InternalError("no"));
  client.Append(std::string(7, 'x'));
  const uint64_t close = client.Close();
  Run(client);
  (void)close;
  EXPECT_EQ(client.All<GeneratedEvent>(generate)[0].usage.trained_tokens, 3u * 8u);
  const ClosedEvent closed = client.All<ClosedEvent>()[0];
  EXPECT_EQ(closed.usage.trained_tokens, 3u * (7u + 8u));
  EXPECT_EQ(closed.updates_applied, 2u);
}

TEST_F(SessionLearningTest, HalfCloseStillLearnsTheLastCompleteChunkButDoesNotRefreshForNobody) {
  SessionClient client(&manager_);
  Open(client);
  client.Append(std::string(8, 'x'));
  client.session().HalfClose();
  Run(client);
  EXPECT_THAT(client.All<UpdateEvent>(), SizeIs(1));
  EXPECT_THAT(engine_.SubmittedOf<RefreshWork>(), IsEmpty());
  EXPECT_THAT(*client.final_status(), IsOk());
}

// ---- The KV policies -----------------------------------------------------------------------

TEST_F(SessionLearningTest, PolicyRefreshComputesTheContextAgainAfterEveryUpdate) {
  SessionClient client(&manager_);
  Open(client);
  client.Append(std::string(25, 'x'));
  Run(client);
  const auto refreshes = engine_.SubmittedOf<RefreshWork>();
  ASSERT_THAT(refreshes, SizeIs(3));
  for (size_t i = 0; i < refreshes.size(); ++i) {
    EXPECT_EQ(refreshes[i].begin, (i + 1) * kChunk - kContext);
  }
  EXPECT_EQ(engine_.window_fill(0), kContext + 1);
}

TEST_F(SessionLearningTest, PolicyRefreshEveryComputesItAgainAfterThatManyUpdates) {
  SessionClient client(&manager_);
  OpenCommand open = SmallChunks();
  open.adaptation.kv_policy = KvPolicy::kRefreshEvery;
  open.adaptation.refresh_every = 2;
  Open(client, open);
  client.Append(std::string(33, 'x'));
  Run(client);
  EXPECT_THAT(engine_.SubmittedOf<RefreshWork>(), SizeIs(2));
}

TEST_F(SessionLearningTest, PolicyKeepComputesItAgainOnlyWhenTheWindowIsFull) {
  SessionClient client(&manager_);
  OpenCommand open = SmallChunks();
  open.adaptation.kv_policy = KvPolicy::kKeep;
  open.window_tokens = 20;
  Open(client, open);
  client.Append(std::string(21, 'x'));
  Run(client);
  const auto refreshes = engine_.SubmittedOf<RefreshWork>();
  ASSERT_THAT(refreshes, SizeIs(1));
  EXPECT_EQ(refreshes[0].begin, 20u - kContext - 4) << "the context and the chunk in progress";
  EXPECT_EQ(engine_.window_fill(0), kContext + 4 + 1);
}

// ---- Receipt, gate, roll-back -----------------------------------------------------------------

TEST_F(SessionLearningTest, TheReceiptMeasuresAdapterAndBaseOnEveryChunk) {
  SessionClient client(&manager_);
  Open(client, WithReceipt());
  client.Append("abc");
  client.Generate(13);
  Run(client);
  const auto receipts = client.All<UpdateEvent>();
  ASSERT_THAT(receipts, SizeIs(2));
  for (const UpdateEvent& receipt : receipts) {
    EXPECT_THAT(receipt.nll, Optional(1.0));
    EXPECT_THAT(receipt.base_nll, Optional(1.5));
  }
  EXPECT_TRUE(engine_.SubmittedOf<UpdateWork>()[0].measure_after);
  EXPECT_DOUBLE_EQ(metrics_.nll_gain.sum(), 2 * 0.5);
}

TEST_F(SessionLearningTest, WhatTheClientComparedIsNotScoredTwice) {
  SessionClient client(&manager_);
  Open(client, WithReceipt());
  AppendCommand append;
  append.input = TextInput(std::string(16, 'x'));
  append.compare_base = true;
  client.Send(append);
  Run(client);
  EXPECT_THAT(engine_.SubmittedOf<ScoreBaseWork>(), IsEmpty());
  EXPECT_THAT(client.All<UpdateEvent>()[1].base_nll, Optional(1.5));
}

TEST_F(SessionLearningTest, TheReceiptsScoresStayOutOfAnAppendThatDidNotAskForThem) {
  SessionClient client(&manager_);
  Open(client, WithReceipt());
  const uint64_t id = client.Append(std::string(10, 'x'));
  Run(client);
  const AppendedEvent appended = client.All<AppendedEvent>(id).back();
  EXPECT_FALSE(appended.nll);
  EXPECT_EQ(appended.scored_tokens, 0);
  EXPECT_THAT(appended.token_logprobs, IsEmpty());
}

TEST_F(SessionLearningTest, WithoutReceiptNothingIsScoredUnasked) {
  SessionClient client(&manager_);
  Open(client);
  client.Append(std::string(10, 'x'));
  Run(client);
  for (const PrefillWork& piece : engine_.SubmittedOf<PrefillWork>()) EXPECT_FALSE(piece.score);
  EXPECT_FALSE(client.All<UpdateEvent>()[0].nll);
}

TEST_F(SessionLearningTest, AVersionThatProvedItselfIsKeptBeforeTheNextUpdate) {
  SessionClient client(&manager_);
  Open(client, WithReceipt());
  client.Append(std::string(16, 'x'));
  Run(client);
  std::vector<size_t> order;
  for (const auto& item : engine_.submitted()) order.push_back(item.work.index());
  const size_t prefill = RowWork(PrefillWork{}).index(), score = RowWork(ScoreBaseWork{}).index(),
               keep = RowWork(CheckpointWork{}).index(), update = RowWork(UpdateWork{}).index(),
               refresh = RowWork(RefreshWork{}).index();
  EXPECT_THAT(order, ElementsAre(prefill, score, keep, update, refresh, prefill, score, keep,
                                 update, refresh));
}

TEST_F(SessionLearningTest, AnAdapterThatDoesWorseThanTheBaseIsRolledBackAtHalfTheRate) {
  SessionClient client(&manager_);
  Open(client, WithReceipt());
  MakeAdapterWorse(0.5f, 2);
  client.Append(std::string(24, 'x'));
  Run(client);
  const auto receipts = client.All<UpdateEvent>();
  ASSERT_THAT(receipts, SizeIs(3));
  EXPECT_EQ(receipts[0].result.outcome, UpdateOutcome::kApplied);
  EXPECT_EQ(receipts[1].result.outcome, UpdateOutcome::kRolledBack);
  EXPECT_THAT(receipts[1].result.reason, HasSubstr("0.05"));
  EXPECT_EQ(receipts[2].result.outcome, UpdateOutcome::kApplied);
  EXPECT_DOUBLE_EQ(receipts[2].learning_rate, receipts[0].learning_rate / 2);
  EXPECT_THAT(engine_.SubmittedOf<RollBackWork>(), SizeIs(1));
  EXPECT_THAT(engine_.SubmittedOf<UpdateWork>(), SizeIs(2)) << "the bad chunk is not learned";
  EXPECT_EQ(metrics_.rollbacks.value(), 1u);
}

TEST_F(SessionLearningTest, WithTheGateOffNothingIsKeptOrRolledBack) {
  SessionClient client(&manager_);
  OpenCommand open = WithReceipt();
  open.adaptation.gate = false;
  Open(client, open);
  MakeAdapterWorse(2.0f);
  client.Append(std::string(32, 'x'));
  Run(client);
  EXPECT_THAT(engine_.SubmittedOf<RollBackWork>(), IsEmpty());
  EXPECT_THAT(engine_.SubmittedOf<CheckpointWork>(), IsEmpty());
  EXPECT_THAT(engine_.SubmittedOf<UpdateWork>(), SizeIs(4));
}

TEST_F(SessionLearningTest, ABaseThatCannotBeScoredDoesNotStopLearning) {
  SessionClient client(&manager_);
  Open(client, WithReceipt());
  engine_.FailNext<ScoreBaseWork>(absl::InternalError("no"));
  client.Append(std::string(8, 'x'));
  Run(client);
  const auto receipts = client.All<UpdateEvent>();
  ASSERT_THAT(receipts, SizeIs(1));
  EXPECT_EQ(receipts[0].result.outcome, UpdateOutcome::kApplied);
  EXPECT_FALSE(receipts[0].base_nll);
}

TEST_F(SessionLearningTest, AFailedRollBackIsToldAsAFailedUpdate) {
  SessionClient client(&manager_);
  Open(client, WithReceipt());
  MakeAdapterWorse(2.0f);
  engine_.FailNext<RollBackWork>(absl::InternalError("no"));
  client.Append(std::string(16, 'x'));
  Run(client);
  EXPECT_EQ(client.All<UpdateEvent>()[1].result.outcome, UpdateOutcome::kFailed);
}

// ---- Adapt -----------------------------------------------------------------------------------

TEST_F(SessionLearningTest, PausedChunksAreSkippedAndResumedOnesLearned) {
  SessionClient client(&manager_);
  Open(client);
  const uint64_t pause = client.Adapt(AdaptAction::kPause);
  client.Append(std::string(12, 'x'));
  const uint64_t resume = client.Adapt(AdaptAction::kResume);
  client.Append(std::string(4, 'x'));
  Run(client);
  EXPECT_TRUE(client.All<AdaptedEvent>(pause)[0].paused);
  EXPECT_FALSE(client.All<AdaptedEvent>(resume)[0].paused);
  const auto receipts = client.All<UpdateEvent>();
  ASSERT_THAT(receipts, SizeIs(2));
  EXPECT_EQ(receipts[0].result.outcome, UpdateOutcome::kSkipped);
  EXPECT_THAT(receipts[0].result.reason, HasSubstr("paused"));
  EXPECT_EQ(receipts[1].result.outcome, UpdateOutcome::kApplied);
  EXPECT_THAT(LearnedSpans(), ElementsAre(TokenSpan{8, 16}));
}

TEST_F(SessionLearningTest, UpdateNowLearnsThePartialChunkAndTheNextStartsAfterIt) {
  SessionClient client(&manager_);
  Open(client);
  client.Append(std::string(5, 'x'));
  const uint64_t id = client.Adapt(AdaptAction::kUpdateNow);
  client.Append(std::string(8, 'x'));
  Run(client);
  EXPECT_THAT(LearnedSpans(), ElementsAre(TokenSpan{0, 5}, TokenSpan{5, 13}));
  EXPECT_EQ(client.All<AdaptedEvent>(id)[0].adapter_version, 1u);
  EXPECT_EQ(client.All<UpdateEvent>()[0].tokens, 5);
}

TEST_F(SessionLearningTest, UpdateNowWithNothingToLearnIsRefusedAndKeepsWhatIsCollected) {
  SessionClient client(&manager_);
  Open(client);
  const uint64_t empty = client.Adapt(AdaptAction::kUpdateNow);
  client.Append("x");
  const uint64_t first_token = client.Adapt(AdaptAction::kUpdateNow);
  client.Append(std::string(7, 'x'));
  client.Adapt(AdaptAction::kPause);
  const uint64_t paused = client.Adapt(AdaptAction::kUpdateNow);
  Run(client);
  for (const uint64_t id : {empty, first_token, paused}) {
    EXPECT_THAT(client.ErrorOf(id), HasCode(StatusCode::kFailedPrecondition));
  }
  EXPECT_THAT(LearnedSpans(), ElementsAre(TokenSpan{0, 8}));
}

TEST_F(SessionLearningTest, ACancelledUpdateNowIsSkipped) {
  SessionClient client(&manager_);
  Open(client, WithReceipt());
  client.Append(std::string(5, 'x'));
  Run(client);
  const uint64_t id = client.Adapt(AdaptAction::kUpdateNow);
  ASSERT_THAT(engine_.SubmittedOf<ScoreBaseWork>(), SizeIs(1));
  client.Cancel(id);
  client.Append(std::string(8, 'x'));
  Run(client);
  EXPECT_THAT(client.ErrorOf(id), HasCode(StatusCode::kCancelled));
  const auto receipts = client.All<UpdateEvent>();
  ASSERT_THAT(receipts, SizeIs(2));
  EXPECT_EQ(receipts[0].result.outcome, UpdateOutcome::kSkipped);
  EXPECT_EQ(receipts[0].result.reason, "cancelled");
  EXPECT_THAT(LearnedSpans(), ElementsAre(TokenSpan{5, 13}));
}

TEST_F(SessionLearningTest, ResetForgetsTheAdapterAndWhatItComputed) {
  SessionClient client(&manager_);
  OpenCommand open = SmallChunks();
  open.adaptation.kv_policy = KvPolicy::kKeep;
  open.adaptation.warmup_chunks = 2;
  Open(client, open);
  client.Append(std::string(19, 'x'));
  const uint64_t id = client.Adapt(AdaptAction::kReset);
  client.Append(std::string(8, 'x'));
  Run(client);
  EXPECT_THAT(engine_.SubmittedOf<ResetWork>(), SizeIs(1));
  EXPECT_EQ(client.All<AdaptedEvent>(id)[0].adapter_version, 3u) << "the version goes on counting";
  EXPECT_THAT(engine_.SubmittedOf<RefreshWork>(), SizeIs(1));
  EXPECT_THAT(LearnedSpans(), ElementsAre(TokenSpan{0, 8}, TokenSpan{8, 16}, TokenSpan{19, 27}));
  EXPECT_EQ(client.All<UpdateEvent>()[2].learning_rate, 0) << "warm-up begins again";
}

TEST_F(SessionLearningTest, AFailedResetIsAnError) {
  SessionClient client(&manager_);
  Open(client);
  engine_.FailNext<ResetWork>(absl::InternalError("no"));
  const uint64_t id = client.Adapt(AdaptAction::kReset);
  Run(client);
  EXPECT_THAT(client.ErrorOf(id), HasCode(StatusCode::kInternal));
}

TEST_F(SessionLearningTest, OptionsChangeForTheUpdatesThatFollow) {
  SessionClient client(&manager_);
  Open(client);
  AdaptCommand change;
  change.options.learning_rate = 0.125;
  change.options.epochs = 2;
  client.Append(std::string(8, 'x'));
  const uint64_t id = client.Send(change);
  client.Append(std::string(8, 'x'));
  Run(client);
  EXPECT_EQ(client.All<AdaptedEvent>(id)[0].adaptation.optimizer.learning_rate, 0.125);
  const auto updates = engine_.SubmittedOf<UpdateWork>();
  EXPECT_EQ(updates.at(0).optimizer.learning_rate, 2e-3);
  EXPECT_EQ(updates.at(1).optimizer.learning_rate, 0.125);
  EXPECT_EQ(updates.at(1).epochs, 2);
}

TEST_F(SessionLearningTest, AnAdaptThatFailsChangesNothing) {
  SessionClient client(&manager_);
  Open(client);
  AdaptCommand bad{AdaptAction::kUpdateNow, {}};
  bad.options.learning_rate = 0.125;
  const uint64_t nothing_collected = client.Send(bad);
  AdaptCommand fixed;
  fixed.options.rank = 8;
  const uint64_t cannot_change = client.Send(fixed);
  const uint64_t ask = client.Adapt(AdaptAction::kNone);
  Run(client);
  EXPECT_THAT(client.ErrorOf(nothing_collected), HasCode(StatusCode::kFailedPrecondition));
  EXPECT_THAT(client.ErrorOf(cannot_change), HasCode(StatusCode::kInvalidArgument));
  EXPECT_EQ(client.All<AdaptedEvent>(ask)[0].adaptation.optimizer.learning_rate, 2e-3);
}

TEST_F(SessionLearningTest, WithoutAnAdapterThereIsNothingToAdapt) {
  SessionClient client(&manager_);
  Open(client, Off());
  client.Append("ab");
  for (const AdaptAction action :
       {AdaptAction::kPause, AdaptAction::kReset, AdaptAction::kUpdateNow}) {
    const uint64_t id = client.Adapt(action);
    Run(client);
    EXPECT_THAT(client.ErrorOf(id), StatusIs(StatusCode::kFailedPrecondition, HasSubstr("off")));
  }
}

TEST_F(SessionLearningTest, AChunkInLearningCountsAsLag) {
  SessionClient client(&manager_);
  Open(client);
  client.Append(std::string(8, 'x'));
  while (engine_.SubmittedOf<UpdateWork>().empty()) engine_.Step();
  EXPECT_EQ(metrics_.lag_chunks.value(), 1);
  Run(client);
  EXPECT_EQ(metrics_.lag_chunks.value(), 0);
}

TEST_F(SessionLearningTest, TheGapAroundAnUpdateCountsAsTraining) {
  SessionClient client(&manager_);
  Open(client);
  client.Append("ab");
  client.Generate(10);
  Run(client);
  EXPECT_EQ(Observations(metrics_.time_to_first_token_seconds), 1u);
  EXPECT_EQ(Observations(metrics_.inter_token_seconds_training), 1u);
  EXPECT_EQ(Observations(metrics_.inter_token_seconds_idle), 8u);
}

}  // namespace
}  // namespace mayfly
