#include "session/update_policy.h"

#include <algorithm>
#include <cmath>

namespace mayfly {
namespace {

bool MayLearn(TokenOrigin origin, LearnFrom learn_from) {
  switch (learn_from) {
    case LearnFrom::kBoth: return true;
    case LearnFrom::kInput: return origin == TokenOrigin::kInput;
    case LearnFrom::kOutput: return origin == TokenOrigin::kOutput;
  }
  return false;
}

// The first token of a stream has no probability.
uint64_t FirstScored(TokenSpan chunk) { return std::max<uint64_t>(chunk.begin, 1); }

template <typename Logprob>
std::optional<double> MeanNll(TokenSpan chunk, Logprob logprob_at) {
  const uint64_t begin = FirstScored(chunk);
  if (begin >= chunk.end) return std::nullopt;
  double sum = 0;
  for (uint64_t position = begin; position < chunk.end; ++position) sum -= logprob_at(position);
  if (std::isnan(sum)) return std::nullopt;
  return sum / static_cast<double>(chunk.end - begin);
}

}  // namespace

float LabelWeight(const HistoryToken& token, uint64_t position, const AdaptationOptions& options) {
  if (position == 0 || !token.learn || !MayLearn(token.origin, options.learn_from)) return 0;
  return token.origin == TokenOrigin::kInput ? 1.0f : static_cast<float>(options.output_weight);
}

double LearningRate(const AdaptationOptions& options, uint64_t learned_chunks) {
  const double rate = options.optimizer.learning_rate;
  if (learned_chunks >= static_cast<uint64_t>(options.warmup_chunks)) return rate;
  return rate * static_cast<double>(learned_chunks) / options.warmup_chunks;
}

std::optional<UpdateWork> PlanUpdate(const TokenHistory& history, TokenSpan chunk,
                                     uint64_t chunk_index, uint64_t learned_chunks,
                                     const AdaptationOptions& options) {
  UpdateWork update;
  bool has_label = false;
  for (uint64_t position = chunk.begin; position < chunk.end; ++position) {
    const HistoryToken& token = history.at(position);
    update.tokens.push_back(token.id);
    update.weights.push_back(LabelWeight(token, position, options));
    has_label |= update.weights.back() > 0;
  }
  if (!has_label) return std::nullopt;

  const uint64_t context_tokens = std::min<uint64_t>(options.context_tokens, chunk.begin);
  for (uint64_t position = chunk.begin - context_tokens; position < chunk.begin; ++position) {
    update.context.push_back(history.at(position).id);
  }
  update.chunk_index = chunk_index;
  update.begin = chunk.begin;
  update.gradient_scope = options.gradient_scope;
  update.epochs = options.epochs;
  update.optimizer = options.optimizer;
  update.optimizer.learning_rate = LearningRate(options, learned_chunks);
  update.grad_clip = options.grad_clip;
  update.dropout = options.dropout;
  update.measure_after = options.receipt;
  update.gate = options.gate;
  return update;
}

ChunkScore ScoreOf(const TokenHistory& history, TokenSpan chunk) {
  return {
      .nll = MeanNll(chunk, [&](uint64_t position) { return history.at(position).logprob; }),
      .base_nll =
          MeanNll(chunk, [&](uint64_t position) { return history.at(position).base_logprob; }),
  };
}

std::optional<TokenSpan> MissingBaseScores(const TokenHistory& history, TokenSpan chunk) {
  const auto is_missing = [&](uint64_t position) {
    return std::isnan(history.at(position).base_logprob);
  };
  TokenSpan missing{FirstScored(chunk), chunk.end};
  while (missing.begin < missing.end && !is_missing(missing.begin)) ++missing.begin;
  while (missing.end > missing.begin && !is_missing(missing.end - 1)) --missing.end;
  if (missing.begin >= missing.end) return std::nullopt;
  return missing;
}

}  // namespace mayfly
