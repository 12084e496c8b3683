// Everything that turns values into what people and programs read.

#include <limits>
#include <sstream>

#include "client/command_session.h"
#include "client/human_format.h"
#include "client/json_lines.h"
#include "client/progress_bar.h"
#include "client/score_report.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mayfly::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

class ManualClock final : public Clock {
 public:
  TimePoint Now() const override { return now_; }
  void Advance(Duration by) { now_ += by; }

 private:
  TimePoint now_;
};

TEST(HumanFormatTest, NumbersReadWell) {
  EXPECT_EQ(Thousands(0), "0");
  EXPECT_EQ(Thousands(999), "999");
  EXPECT_EQ(Thousands(1234567), "1,234,567");
  EXPECT_EQ(Counted(1, "update"), "1 update");
  EXPECT_EQ(Counted(2048, "token"), "2,048 tokens");
  EXPECT_EQ(Bytes(512), "512 B");
  EXPECT_EQ(Bytes(3 * 1024 * 1024 / 2), "1.5 MiB");
  EXPECT_EQ(Parameters(134515008), "134.5M");
  EXPECT_EQ(Parameters(7241732096), "7.2B");
  EXPECT_EQ(Percent(-0.1058), "-10.6 %");
  EXPECT_EQ(Percent(0.02), "+2.0 %");
  EXPECT_EQ(Percent(-0.0001), "0.0 %");
  EXPECT_EQ(Elapsed(0.123), "0.12 s");
  EXPECT_EQ(Elapsed(92.06), "92.1 s");
  EXPECT_EQ(Elapsed(725), "12 min 05 s");
}

TEST(HumanFormatTest, OnlyTerminalsGetEscapes) {
  EXPECT_EQ(Dim("x", true), "\x1b[2mx\x1b[0m");
  EXPECT_EQ(Dim("x", false), "x");
}

TEST(JsonLinesTest, TheTypeComesFirstAndNothingBreaksTheLine) {
  std::ostringstream out;
  WriteJsonLine(out, "delta",
                {{"text", "a\nb\xff"}, {"x", std::numeric_limits<double>::infinity()}});
  EXPECT_EQ(out.str(), "{\"type\":\"delta\",\"text\":\"a\\nb\xEF\xBF\xBD\",\"x\":null}\n");
}

TEST(JsonLinesTest, MessagesKeepTheContractsNames) {
  v1::Update update;
  update.set_outcome(v1::UPDATE_OUTCOME_ROLLED_BACK);
  update.set_reason("worse");
  update.add_losses(2.5);
  update.set_nll(3);
  EXPECT_EQ(ToJson(update).dump(),
            R"({"outcome":"rolled_back","reason":"worse","chunk_index":0,"tokens":0,)"
            R"("label_tokens":0,"adapter_version":0,"learning_rate":0.0,"losses":[2.5],"nll":3.0,)"
            R"("queue_seconds":0.0,"train_seconds":0.0,"merged_chunks":0,)"
            R"("lag_chunks":0})");
}

TEST(JsonLinesTest, FloatsHaveNoNoiseAndMessagesNest) {
  v1::Delta delta;
  delta.set_text("a");
  delta.add_tokens()->set_logprob(-1.2f);
  EXPECT_EQ(ToJson(delta).dump(),
            R"({"text":"a","tokens":[{"id":0,"logprob":-1.2,"adapter_version":0}]})");
}

TEST(ProgressBarTest, DrawsOverItsOwnLineAndLeavesItClear) {
  std::ostringstream out;
  const ManualClock clock;
  {
    ProgressBar bar(out, clock, {true, 80});
    bar.Show(0.5, "half");
  }
  EXPECT_EQ(out.str(), "\r\x1b[K[============            ]  50 %  half\r\x1b[K");
}

TEST(ProgressBarTest, DrawsAtMostTenTimesASecond) {
  std::ostringstream out;
  ManualClock clock;
  ProgressBar bar(out, clock, {true, 80});
  bar.Show(0.1, "first");
  bar.Show(0.2, "too soon");
  clock.Advance(std::chrono::milliseconds(100));
  bar.Show(0.3, "later");
  EXPECT_THAT(out.str(), HasSubstr("first"));
  EXPECT_THAT(out.str(), Not(HasSubstr("too soon")));
  EXPECT_THAT(out.str(), HasSubstr("later"));
}

TEST(ProgressBarTest, FitsTheTerminal) {
  std::ostringstream out;
  const ManualClock clock;
  ProgressBar bar(out, clock, {true, 20});
  bar.Show(2, "a note that does not fit");
  EXPECT_EQ(out.str(), "\r\x1b[K[==================");
}

TEST(ProgressBarTest, WritesNothingWhenSwitchedOff) {
  std::ostringstream out;
  const ManualClock clock;
  {
    ProgressBar bar(out, clock, {false, 80});
    bar.Show(0.5, "half");
  }
  EXPECT_EQ(out.str(), "");
}

ScoreResult ComparedResult() {
  ScoreResult result;
  result.document = "book.txt";
  result.adaptation.set_preset(v1::PRESET_BALANCED);
  result.adaptation.set_chunk_tokens(40);
  // Perplexity 20, then 10, against 20 all along.
  result.scores.adapter.assign(40, -2.995732f);
  result.scores.adapter.resize(80, -2.302585f);
  result.scores.base.assign(80, -2.995732f);
  result.scores.adapter[0] = result.scores.base[0] = kNaN;
  result.updates = {2, 1};
  result.seconds = 40;
  return result;
}

TEST(ScoreReportTest, TableComparesWithTheFrozenBase) {
  EXPECT_EQ(SummaryText(ComparedResult()),
            "book.txt: 80 tokens in 40.0 s (2 tokens/s), 1 update applied of 2\n"
            "\n"
            "  perplexity                 adapter   frozen base      change\n"
            "  whole text                   14.08         20.00     -29.6 %\n"
            "  mean of chunks               14.94         20.00     -25.3 %\n"
            "  first quarter                20.00         20.00       0.0 %\n"
            "  second quarter               20.00         20.00       0.0 %\n"
            "  third quarter                10.00         20.00     -50.0 %\n"
            "  last quarter                 10.00         20.00     -50.0 %\n"
            "\n"
            "Learning while reading lowered the perplexity of this text by 29.6 %. Every token was "
            "scored\nbefore it was learned; other texts gain more or less.\n");
}

TEST(ScoreReportTest, WithoutTheBaseThereIsOneColumn) {
  ScoreResult result = ComparedResult();
  result.scores.base.clear();
  const std::string text = SummaryText(result);
  EXPECT_THAT(text, HasSubstr("  perplexity                 adapter\n"
                              "  whole text                   14.08\n"));
  EXPECT_THAT(text, HasSubstr("Run with --compare_base"));
}

TEST(ScoreReportTest, ClaimsNoGainThatIsNone) {
  ScoreResult result = ComparedResult();
  result.scores.adapter = result.scores.base;
  EXPECT_THAT(SummaryText(result), HasSubstr("No gain on this text"));
  result.updates.applied = 0;
  EXPECT_THAT(SummaryText(result), HasSubstr("Nothing was learned: an update takes 40 new tokens"));
  result.adaptation.set_preset(v1::PRESET_OFF);
  EXPECT_THAT(SummaryText(result), HasSubstr("Adaptation was off"));
}

TEST(ScoreReportTest, ShortTextsHaveNoQuarters) {
  ScoreResult result = ComparedResult();
  result.scores.adapter.resize(8);
  result.scores.base.resize(8);
  EXPECT_THAT(SummaryText(result), Not(HasSubstr("quarter")));
}

TEST(ScoreReportTest, SummaryHasTheContractsFields) {
  const auto names = [](const Json& json) {
    std::string all;
    for (const auto& [name, value] : json.items()) all += name + " ";
    return all;
  };
  ScoreResult result = ComparedResult();
  EXPECT_EQ(names(SummaryJson(result)),
            "tokens ppl ppl_chunk_mean base_ppl base_ppl_chunk_mean updates applied seconds "
            "tokens_per_second ");
  EXPECT_EQ(SummaryJson(result)["tokens"], 80);
  EXPECT_NEAR(SummaryJson(result)["ppl"].get<double>(), 14.08, 0.01);
  result.scores.base.clear();
  EXPECT_EQ(names(SummaryJson(result)),
            "tokens ppl ppl_chunk_mean updates applied seconds tokens_per_second ");
}

TEST(ScoreReportTest, ChunksAreReportedOneByOne) {
  const ScoreResult result = ComparedResult();
  EXPECT_EQ(ChunkLine(result.scores, 40, 1),
            "  chunk 1                      10.00         20.00     -50.0 %\n");
  const Json last = ChunkJson(result.scores, 60, 1);
  EXPECT_EQ(last["index"], 1);
  EXPECT_EQ(last["tokens"], 20);
  EXPECT_NEAR(last["nll"].get<double>(), 2.302585, 1e-5);
  EXPECT_NEAR(last["base_ppl"].get<double>(), 20, 1e-3);
}

TEST(UpdateNoteTest, TellsLossesOrTheReason) {
  v1::Update update;
  update.set_outcome(v1::UPDATE_OUTCOME_APPLIED);
  update.set_chunk_index(3);
  update.add_losses(3.1);
  update.add_losses(2.9);
  update.set_adapter_version(4);
  EXPECT_EQ(UpdateNote(update), "update 3 applied: loss 3.10 -> 2.90, adapter version 4");
  update.set_outcome(v1::UPDATE_OUTCOME_ROLLED_BACK);
  update.set_reason("worse than the base");
  EXPECT_EQ(UpdateNote(update), "update 3 rolled back: worse than the base");
}

}  // namespace
}  // namespace mayfly::cli
