#pragma once

// What a chunk teaches: which of its tokens are labels, at what rate, after which context, and how
// well it was predicted before it is learned. Pure functions: same history and options, same
// answer.

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/types.h"
#include "session/token_history.h"

namespace mayfly {

// Loss weight of one token: 1 for the client's text, output_weight for the model's own, 0 for what
// may not be learned. The first token of a stream is never a label: nothing predicts it.
float LabelWeight(const HistoryToken& token, uint64_t position, const AdaptationOptions& options);

// The learning rate of the `learned_chunks`-th chunk since the adapter was fresh (0 for the first).
// It rises by chunks, as in the authors' trainer: with two warm-up chunks 0, one half, then the
// full rate.
double LearningRate(const AdaptationOptions& options, uint64_t learned_chunks);

// The training of `chunk`, whose tokens and context lie in `history`. Nothing when no token of it
// is a label.
std::optional<UpdateWork> PlanUpdate(const TokenHistory& history, TokenSpan chunk,
                                     uint64_t chunk_index, uint64_t learned_chunks,
                                     const AdaptationOptions& options);

// Mean negative log-likelihood of a chunk as it was first met, nats per token.
struct ChunkScore {
  std::optional<double> nll;
  std::optional<double> base_nll;
};

// A mean is set when all tokens of the chunk were measured (but the first of the stream, which
// cannot be).
ChunkScore ScoreOf(const TokenHistory& history, TokenSpan chunk);

// The part of the chunk that the frozen base has not been measured on, if any.
std::optional<TokenSpan> MissingBaseScores(const TokenHistory& history, TokenSpan chunk);

}  // namespace mayfly
