// What a generation draws, reports and where it stops.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/tiny_engine.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int32_t kPrompt = 12;

class EngineLoopGenerationTest : public testing::Test {
 protected:
  TestRow Prompted(int32_t window_tokens = 0) {
    TestRow row(&engine_, Spec(), window_tokens);
    row.Prefill(RandomTokens(kPrompt, 1));
    return row;
  }
  // What a row of its own generates from the prompt.
  Generated Fresh(const GenerateWork& work) {
    TestRow row = Prompted();
    Generated generated = row.Generate(work);
    row.Close();
    return generated;
  }
  static GenerateWork Sampled(int32_t tokens, uint64_t seed = 1) {
    GenerateWork work = Greedy(tokens);
    work.sampling.temperature = 1;
    work.sampling.seed = seed;
    return work;
  }

  TinyEngine engine_;
};

// ---- What is drawn -------------------------------------------------------------------------

TEST_F(EngineLoopGenerationTest, TheLogprobOfAGeneratedTokenIsItsScore) {
  TestRow row = Prompted(), reader = Prompted();
  const Generated generated = row.Generate(Sampled(20));
  ASSERT_THAT(generated.ids, SizeIs(20));
  EXPECT_LT(GreatestDifference(generated.logprobs, reader.Prefill(generated.ids).logprobs), 1e-4);
}

TEST_F(EngineLoopGenerationTest, GreedyTakesTheBestTokenAtEveryPlace) {
  GenerateWork work = Greedy(20);
  work.logprobs = 1;
  const Generated generated = Fresh(work);
  for (size_t i = 0; i < generated.ids.size(); ++i) {
    EXPECT_EQ(generated.top[i].at(0).id, generated.ids[i]);
    EXPECT_EQ(generated.top[i].at(0).logprob, generated.logprobs[i]);
  }
}

TEST_F(EngineLoopGenerationTest, AlternativesAreTheBestTokensWithTheirTextBestFirst) {
  GenerateWork work = Sampled(5);
  work.logprobs = 4;
  for (const std::vector<TokenAlternative>& top : Fresh(work).top) {
    ASSERT_THAT(top, SizeIs(4));
    for (size_t i = 0; i < top.size(); ++i) {
      EXPECT_EQ(TinyTokens(top[i].text), std::vector<TokenId>{top[i].id});
      EXPECT_LE(top[i].logprob, top[i == 0 ? 0 : i - 1].logprob);
    }
  }
  work.logprobs = 0;
  EXPECT_THAT(Fresh(work).top, Each(IsEmpty()));
}

TEST_F(EngineLoopGenerationTest, AllAlternativesTogetherAreTheWholeDistribution) {
  GenerateWork work = Greedy(1);
  work.logprobs = 1000;
  const Generated generated = Fresh(work);
  ASSERT_THAT(generated.top.at(0), SizeIs(kTinyVocabulary));
  double total = 0;
  for (const TokenAlternative& alternative : generated.top[0]) {
    total += std::exp(alternative.logprob);
  }
  EXPECT_NEAR(total, 1, 1e-4);
}

TEST_F(EngineLoopGenerationTest, TheSameSeedDrawsTheSameTokensAndAnotherSeedOthers) {
  const Generated first = Fresh(Sampled(20, 1));
  EXPECT_EQ(Fresh(Sampled(20, 1)).ids, first.ids);
  EXPECT_NE(Fresh(Sampled(20, 2)).ids, first.ids);
}

TEST_F(EngineLoopGenerationTest, WhatIsDrawnDependsOnThePlaceInTheStreamNotOnTheCommand) {
  const Generated whole = Fresh(Sampled(20));
  TestRow row = Prompted();
  std::vector<TokenId> ids = row.Generate(Sampled(8)).ids;
  const std::vector<TokenId> rest = row.Generate(Sampled(12)).ids;
  ids.insert(ids.end(), rest.begin(), rest.end());
  EXPECT_EQ(ids, whole.ids);
}

TEST_F(EngineLoopGenerationTest, ADrawIsTheSameWhateverRunsBesideIt) {
  const Generated alone = Fresh(Sampled(20));
  TestRow other = Prompted(), row = Prompted();
  other.Submit(Sampled(30, 9));
  // One token a row and step: kernels whose elements do not depend on the batch.
  const Generated beside = row.Generate(Sampled(20));
  EXPECT_EQ(beside.ids, alone.ids);
  EXPECT_TRUE(SameBits(beside.logprobs, alone.logprobs));
}

TEST_F(EngineLoopGenerationTest, TopKOfOneAndATopPOfNothingAreGreedy) {
  const std::vector<TokenId> greedy = Fresh(Greedy(10)).ids;
  GenerateWork work = Sampled(10);
  work.sampling.top_k = 1;
  EXPECT_EQ(Fresh(work).ids, greedy);
  work.sampling.top_k = 0;
  work.sampling.top_p = 0;
  EXPECT_EQ(Fresh(work).ids, greedy);
  work.sampling.top_p = 1;
  work.sampling.min_p = 1;
  EXPECT_EQ(Fresh(work).ids, greedy);
}

TEST_F(EngineLoopGenerationTest, APresencePenaltyWithoutMercyNeverRepeatsAGeneratedToken) {
  GenerateWork work = Greedy(40);
  work.sampling.presence_penalty = 1e6;
  const std::vector<TokenId> ids = Fresh(work).ids;
  EXPECT_EQ(std::set<TokenId>(ids.begin(), ids.end()).size(), ids.size());
  // The penalty counts what this command generated, so the next one starts afresh.
  TestRow row = Prompted();
  work.max_tokens = 1;
  const TokenId first = row.Generate(work).ids.at(0);
  row.Refresh(kPrompt + 1);
  EXPECT_EQ(first, ids.at(0));
}

TEST_F(EngineLoopGenerationTest, AFrequencyPenaltyGrowsWithEveryOccurrence) {
  GenerateWork work = Greedy(40);
  const std::vector<TokenId> plain = Fresh(work).ids;
  work.sampling.frequency_penalty = 1e6;
  const std::vector<TokenId> ids = Fresh(work).ids;
  EXPECT_EQ(std::set<TokenId>(ids.begin(), ids.end()).size(), ids.size());
  EXPECT_LT(std::set<TokenId>(plain.begin(), plain.end()).size(), plain.size());
}

TEST_F(EngineLoopGenerationTest, ARepetitionPenaltyAvoidsTheWholeWindowAndItsOwnTokens) {
  GenerateWork work = Greedy(20);
  work.sampling.repetition_penalty = 1e6;
  std::vector<TokenId> ids = Fresh(work).ids;
  const std::vector<TokenId> prompt = RandomTokens(kPrompt, 1);
  const std::set<TokenId> read(prompt.begin(), prompt.end());
  for (const TokenId id : ids) EXPECT_FALSE(read.contains(id)) << id;
  EXPECT_EQ(std::set<TokenId>(ids.begin(), ids.end()).size(), ids.size());
}

// The window holds most of the vocabulary, so that nearly every token after the refresh is one that
// the penalty would have avoided before.
TEST_F(EngineLoopGenerationTest, TheRepetitionPenaltyForgetsWhatARefreshDropped) {
  std::vector<TokenId> most(60);
  std::iota(most.begin(), most.end(), 0);
  TestRow row(&engine_), short_row(&engine_);
  row.Prefill(most);
  GenerateWork work = Greedy(9);
  work.sampling.repetition_penalty = 1e6;
  work.horizon = 61;
  const WorkId id = row.Submit(work);
  row.sink().Wait<GenerationPaused>(id);
  row.Refresh(1);
  row.Advance(id, 1000);
  const std::vector<TokenId> ids = row.WaitGenerated(id).ids;

  short_row.Prefill({ids.at(0)});
  work.horizon = 1000;
  work.max_tokens = 8;
  EXPECT_THAT(std::vector<TokenId>(ids.begin() + 1, ids.end()),
              ElementsAreArray(short_row.Generate(work).ids));
}

TEST_F(EngineLoopGenerationTest, LogprobsAreThoseOfTheModelBeforePenaltiesAndTemperature) {
  GenerateWork work = Sampled(15);
  work.sampling.temperature = 0.5;
  work.sampling.presence_penalty = 2;
  work.sampling.repetition_penalty = 1.5;
  work.sampling.top_k = 20;
  TestRow row = Prompted(), reader = Prompted();
  const Generated generated = row.Generate(work);
  EXPECT_LT(GreatestDifference(generated.logprobs, reader.Prefill(generated.ids).logprobs), 1e-4);
}

// ---- Where it stops ------------------------------------------------------------------------

TEST_F(EngineLoopGenerationTest, AnEmptyWindowHasNothingToContinue) {
  TestRow row(&engine_);
  EXPECT_THAT(row.sink().Wait<WorkFailed>(row.Submit(Greedy(3))).status,
              HasCode(absl::StatusCode::kFailedPrecondition));
}

TEST_F(EngineLoopGenerationTest, EndsAfterTheTokensThatWereAskedFor) {
  const Generated generated = Fresh(Greedy(7));
  EXPECT_THAT(generated.ids, SizeIs(7));
  EXPECT_EQ(generated.done.reason, FinishReason::kLength);
  EXPECT_EQ(generated.done.tokens, 7);
  EXPECT_EQ(TinyTokens(generated.text), generated.ids);
}

TEST_F(EngineLoopGenerationTest, AStopTokenEndsItWithoutItsText) {
  const Generated whole = Fresh(Greedy(7));
  GenerateWork work = Greedy(7);
  work.stop_token_ids = {whole.ids[2]};
  const Generated stopped = Fresh(work);
  const auto first = std::find(whole.ids.begin(), whole.ids.end(), whole.ids[2]);
  const std::vector<TokenId> expected(whole.ids.begin(), first + 1);
  EXPECT_EQ(stopped.ids, expected);
  EXPECT_EQ(stopped.done.reason, FinishReason::kStop);
  EXPECT_EQ(TinyTokens(stopped.text), std::vector<TokenId>(expected.begin(), expected.end() - 1));
}

// The model's own end token (2) comes where the sampler is made to like nothing else.
TEST_F(EngineLoopGenerationTest, TheEndTokenEndsItUnlessItIsIgnored) {
  GenerateWork work = Sampled(2000);
  work.sampling.temperature = 100;  // nearly uniform: one in 96
  work.ignore_eos = false;
  work.horizon = 1 << 20;
  TinyEngine engine({.window_tokens = 2048});
  TestRow row(&engine), ignoring(&engine);
  for (TestRow* each : {&row, &ignoring}) each->Prefill(RandomTokens(kPrompt, 1));
  const Generated ended = row.Generate(work);
  EXPECT_EQ(ended.done.reason, FinishReason::kEos);
  EXPECT_EQ(ended.ids.back(), 2);
  EXPECT_EQ(std::count(ended.ids.begin(), ended.ids.end(), 2), 1);
  EXPECT_EQ(ended.text.size(), ended.ids.size() - 1);

  work.ignore_eos = true;
  work.max_tokens = ended.done.tokens + 3;
  const Generated went_on = ignoring.Generate(work);
  EXPECT_EQ(went_on.done.reason, FinishReason::kLength);
  EXPECT_THAT(std::vector<TokenId>(went_on.ids.begin(), went_on.ids.end() - 3),
              ElementsAreArray(ended.ids));
}

TEST_F(EngineLoopGenerationTest, AStopStringEndsItBeforeTheStopAndTheRowAfterIt) {
  const Generated whole = Fresh(Greedy(20));
  GenerateWork work = Greedy(20);
  work.stop = {"never in there", whole.text.substr(5, 3)};
  TestRow row = Prompted(), reader = Prompted();
  const Generated stopped = row.Generate(work);
  const size_t place = whole.text.find(work.stop[1]);
  EXPECT_EQ(stopped.done.reason, FinishReason::kStop);
  EXPECT_EQ(stopped.text, whole.text.substr(0, place));
  EXPECT_EQ(stopped.done.tokens, static_cast<int32_t>(place) + 3);
  EXPECT_EQ(stopped.ids,
            std::vector<TokenId>(whole.ids.begin(),
                                 whole.ids.begin() + static_cast<ptrdiff_t>(place) + 3));
  // Tokens drawn before the stop was noticed are not part of the row.
  reader.Prefill(stopped.ids);
  EXPECT_LT(GreatestDifference(row.Prefill(RandomTokens(4, 3)).logprobs,
                               reader.Prefill(RandomTokens(4, 3)).logprobs),
            1e-4);
}

TEST_F(EngineLoopGenerationTest, AStopStringThatTheLastTokenCompletesIsAStop) {
  const Generated whole = Fresh(Greedy(20));
  GenerateWork work = Greedy(20);
  const size_t place = whole.text.find(whole.text.substr(5, 3));
  work.stop = {whole.text.substr(5, 3)};
  work.max_tokens = static_cast<int32_t>(place) + 3;
  EXPECT_EQ(Fresh(work).done.reason, FinishReason::kStop);
}

TEST_F(EngineLoopGenerationTest, ACancelledGenerationKeepsWhatItHasDrawn) {
  TestRow row = Prompted(), reader = Prompted();
  const auto gate = HoldForward(engine_, 5);
  const WorkId id = row.Submit(Greedy(40));
  ASSERT_TRUE(gate->WaitForArrival());
  row.Cancel(id);
  gate->Open();
  const Generated generated = row.WaitGenerated(id);
  EXPECT_EQ(generated.done.reason, FinishReason::kCancelled);
  ASSERT_FALSE(generated.ids.empty());
  EXPECT_LT(generated.done.tokens, 40);
  EXPECT_THAT(generated.ids, SizeIs(generated.done.tokens));
  reader.Prefill(generated.ids);
  EXPECT_LT(GreatestDifference(row.Prefill(RandomTokens(4, 3)).logprobs,
                               reader.Prefill(RandomTokens(4, 3)).logprobs),
            1e-4);
}

// ---- Credit --------------------------------------------------------------------------------

TEST_F(EngineLoopGenerationTest, TheHorizonPausesAndMovingItGoesOnWithTheSameTokens) {
  const Generated whole = Fresh(Sampled(20));
  TestRow row = Prompted();
  GenerateWork work = Sampled(20);
  work.horizon = kPrompt + 5;
  const WorkId id = row.Submit(work);
  EXPECT_EQ(row.sink().Wait<GenerationPaused>(id).position, kPrompt + 5u);
  EXPECT_THAT(row.sink().All<TextDelta>(id), SizeIs(5));
  row.Advance(id, kPrompt + 9);
  EXPECT_EQ(row.sink().Wait<GenerationPaused>(id, 2).position, kPrompt + 9u);
  EXPECT_THAT(row.sink().All<TextDelta>(id), SizeIs(9));
  row.Advance(id, 1000);
  const Generated generated = row.WaitGenerated(id);
  EXPECT_EQ(generated.ids, whole.ids);
  EXPECT_TRUE(SameBits(generated.logprobs, whole.logprobs));
}

TEST_F(EngineLoopGenerationTest, AHorizonAlreadyReachedPausesBeforeTheFirstToken) {
  TestRow row = Prompted();
  GenerateWork work = Greedy(3);
  work.horizon = kPrompt;
  const WorkId id = row.Submit(work);
  EXPECT_EQ(row.sink().Wait<GenerationPaused>(id).position, uint64_t{kPrompt});
  row.Advance(id, kPrompt + 3);
  EXPECT_EQ(row.WaitGenerated(id).done.tokens, 3);
}

TEST_F(EngineLoopGenerationTest, TheHorizonNeverMovesBack) {
  TestRow row = Prompted();
  const auto gate = HoldForward(engine_, 1);
  GenerateWork work = Greedy(10);
  work.horizon = kPrompt + 10;
  const WorkId id = row.Submit(work);
  ASSERT_TRUE(gate->WaitForArrival());
  row.Advance(id, kPrompt + 2);
  gate->Open();
  EXPECT_EQ(row.WaitGenerated(id).done.tokens, 10);
  EXPECT_THAT(row.sink().All<GenerationPaused>(id), IsEmpty());
}

TEST_F(EngineLoopGenerationTest, TheHorizonOfAGenerationThatStillWaitsMovesToo) {
  TestRow row = Prompted();
  const auto gate = HoldForward(engine_, 1);
  row.Submit(PrefillWork{RandomTokens(4, 2)});
  ASSERT_TRUE(gate->WaitForArrival());
  GenerateWork work = Greedy(10);
  work.horizon = kPrompt + 4;
  const WorkId id = row.Submit(work);
  row.Advance(id, 1000);
  gate->Open();
  EXPECT_EQ(row.WaitGenerated(id).done.tokens, 10);
}

TEST_F(EngineLoopGenerationTest, APausedGenerationCanBeCancelled) {
  TestRow row = Prompted();
  GenerateWork work = Greedy(10);
  work.horizon = kPrompt + 2;
  const WorkId id = row.Submit(work);
  row.sink().Wait<GenerationPaused>(id);
  row.Cancel(id);
  EXPECT_EQ(row.WaitGenerated(id).done.reason, FinishReason::kCancelled);
  EXPECT_EQ(row.Prefill(RandomTokens(3, 2)).tokens_done, 3);
}

TEST_F(EngineLoopGenerationTest, AFullWindowPausesUntilARefreshMakesRoom) {
  TestRow row = Prompted(/*window_tokens=*/16);
  const WorkId id = row.Submit(Greedy(10));
  EXPECT_EQ(row.sink().Wait<GenerationPaused>(id).position, 16u);
  row.Refresh(8);
  row.Advance(id, 1000);
  const Generated generated = row.WaitGenerated(id);
  EXPECT_THAT(generated.ids, SizeIs(10));

  TestRow reader(&engine_);
  reader.Prefill(RandomTokens(kPrompt, 1));
  reader.Prefill({generated.ids.begin(), generated.ids.begin() + 4});
  reader.Refresh(8);
  EXPECT_EQ(reader.Generate(Greedy(6)).ids,
            std::vector<TokenId>(generated.ids.begin() + 4, generated.ids.end()));
}

TEST_F(EngineLoopGenerationTest, CreditAloneDoesNotMakeAFullWindowLonger) {
  TestRow row = Prompted(/*window_tokens=*/16);
  const WorkId id = row.Submit(Greedy(10));
  row.sink().Wait<GenerationPaused>(id);
  for (const uint64_t horizon : {100, 101, 102}) row.Advance(id, horizon);
  row.Refresh(8);  // comes after them, and finds what they did
  EXPECT_THAT(row.sink().All<TextDelta>(id), SizeIs(4));
  row.Cancel(id);
  EXPECT_EQ(row.WaitGenerated(id).done.tokens, 4);
}

TEST_F(EngineLoopGenerationTest, OtherWorkOfTheRowRunsWhileItIsPaused) {
  TestRow row = Prompted();
  GenerateWork work = Greedy(6);
  work.horizon = kPrompt + 3;
  const WorkId id = row.Submit(work);
  row.sink().Wait<GenerationPaused>(id);
  EXPECT_EQ(row.Change(ResetWork{}), 1u);
  row.Advance(id, 1000);
  EXPECT_THAT(row.WaitGenerated(id).versions, ElementsAre(0, 0, 0, 1, 1, 1));
}

}  // namespace
}  // namespace mayfly
