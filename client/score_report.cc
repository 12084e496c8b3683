#include "client/score_report.h"

#include <algorithm>
#include <iterator>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/human_format.h"

namespace mayfly::cli {
namespace {

constexpr size_t kDefaultChunkTokens = 1024;
// Quarters of a shorter text would say nothing.
constexpr size_t kMinTokensForQuarters = 64;

using Span = absl::Span<const float>;

// One part of the document, under the adapter and, if compared, under the base.
struct Part {
  size_t tokens = 0;
  Nll adapter;
  Nll base;
};

Part PartOf(Span adapter, Span base) { return {adapter.size(), SumNll(adapter), SumNll(base)}; }

Part ChunkOf(const TokenScores& scores, size_t chunk_tokens, size_t index) {
  const auto chunk = [&](Span all) {
    const size_t begin = std::min(all.size(), index * chunk_tokens);
    return all.subspan(begin, chunk_tokens);
  };
  return PartOf(chunk(scores.adapter), chunk(scores.base));
}

double TokensPerSecond(const ScoreResult& result) {
  return result.seconds > 0 ? static_cast<double>(result.scores.adapter.size()) / result.seconds
                            : 0;
}

// "       24.68         27.60    -10.6 %", or the first column alone without a base.
std::string Columns(double adapter, double base, bool compared) {
  if (!compared) return absl::StrFormat("%12.2f", adapter);
  return absl::StrFormat("%12.2f%14.2f%12s", adapter, base, Percent(RelativeChange(adapter, base)));
}

std::string Row(const char* name, double adapter, double base, bool compared) {
  return absl::StrFormat("  %-22s%s\n", name, Columns(adapter, base, compared));
}

std::string QuarterRows(const TokenScores& scores) {
  constexpr const char* kNames[] = {"first quarter", "second quarter", "third quarter",
                                    "last quarter"};
  if (scores.adapter.size() < kMinTokensForQuarters) return "";
  const std::vector<Span> adapter = Parts(scores.adapter, std::size(kNames));
  const std::vector<Span> base = Parts(scores.base, std::size(kNames));
  std::string rows;
  for (size_t i = 0; i < std::size(kNames); ++i) {
    rows += Row(kNames[i], SumNll(adapter[i]).Perplexity(), SumNll(base[i]).Perplexity(),
                !scores.base.empty());
  }
  return rows;
}

std::string Verdict(const ScoreResult& result) {
  if (result.adaptation.preset() == v1::PRESET_OFF) {
    return "Adaptation was off: this is the frozen base alone.";
  }
  if (result.updates.applied == 0) {
    return absl::StrCat("Nothing was learned: an update takes ", Thousands(result.chunk_tokens()),
                        " new tokens, and none was applied.");
  }
  if (result.scores.base.empty()) {
    return "Run with --compare_base to see this beside the frozen base.";
  }
  const double change = RelativeChange(SumNll(result.scores.adapter).Perplexity(),
                                       SumNll(result.scores.base).Perplexity());
  if (change > -0.0005) {
    return absl::StrFormat("No gain on this text: learning changed its perplexity by %s.",
                           Percent(change));
  }
  return absl::StrFormat(
      "Learning while reading lowered the perplexity of this text by %.1f %%. Every token was "
      "scored\nbefore it was learned; other texts gain more or less.",
      -change * 100);
}

}  // namespace

size_t ScoreResult::chunk_tokens() const {
  return adaptation.chunk_tokens() > 0 ? adaptation.chunk_tokens() : kDefaultChunkTokens;
}

Json ChunkJson(const TokenScores& scores, size_t chunk_tokens, size_t index) {
  const Part chunk = ChunkOf(scores, chunk_tokens, index);
  Json json = {{"index", index},
               {"tokens", chunk.tokens},
               {"nll", chunk.adapter.Mean()},
               {"ppl", chunk.adapter.Perplexity()}};
  if (!scores.base.empty()) {
    json["base_nll"] = chunk.base.Mean();
    json["base_ppl"] = chunk.base.Perplexity();
  }
  return json;
}

std::string ChunkLine(const TokenScores& scores, size_t chunk_tokens, size_t index) {
  const Part chunk = ChunkOf(scores, chunk_tokens, index);
  return Row(absl::StrCat("chunk ", index).c_str(), chunk.adapter.Perplexity(),
             chunk.base.Perplexity(), !scores.base.empty());
}

Json SummaryJson(const ScoreResult& result) {
  const TokenScores& scores = result.scores;
  Json json = {{"tokens", scores.adapter.size()},
               {"ppl", SumNll(scores.adapter).Perplexity()},
               {"ppl_chunk_mean", ChunkMeanPerplexity(scores.adapter, result.chunk_tokens())}};
  if (!scores.base.empty()) {
    json["base_ppl"] = SumNll(scores.base).Perplexity();
    json["base_ppl_chunk_mean"] = ChunkMeanPerplexity(scores.base, result.chunk_tokens());
  }
  json["updates"] = result.updates.all;
  json["applied"] = result.updates.applied;
  json["seconds"] = result.seconds;
  json["tokens_per_second"] = TokensPerSecond(result);
  return json;
}

std::string SummaryText(const ScoreResult& result) {
  const TokenScores& scores = result.scores;
  const bool compared = !scores.base.empty();
  std::string text = absl::StrFormat("%s: %s in %s (%.0f tokens/s), %s applied of %d\n\n",
                                     result.document, Counted(scores.adapter.size(), "token"),
                                     Elapsed(result.seconds), TokensPerSecond(result),
                                     Counted(result.updates.applied, "update"), result.updates.all);
  absl::StrAppendFormat(&text, "  %-22s%12s%s\n", "perplexity", "adapter",
                        compared ? "   frozen base      change" : "");
  text += Row("whole text", SumNll(scores.adapter).Perplexity(), SumNll(scores.base).Perplexity(),
              compared);
  text += Row("mean of chunks", ChunkMeanPerplexity(scores.adapter, result.chunk_tokens()),
              ChunkMeanPerplexity(scores.base, result.chunk_tokens()), compared);
  return absl::StrCat(text, QuarterRows(scores), "\n", Verdict(result), "\n");
}

std::string RunningNote(const TokenScores& scores) {
  const double adapter = SumNll(scores.adapter).Perplexity();
  std::string note =
      absl::StrFormat("%s  ppl %.2f", Counted(scores.adapter.size(), "token"), adapter);
  if (scores.base.empty()) return note;
  const double base = SumNll(scores.base).Perplexity();
  absl::StrAppendFormat(&note, "  base %.2f (%s)", base, Percent(RelativeChange(adapter, base)));
  return note;
}

}  // namespace mayfly::cli
