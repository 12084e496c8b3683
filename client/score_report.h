#pragma once

// What `mayfly score` says about a document that was read. Pure functions.

#include <cstddef>
#include <string>

#include "client/command_session.h"
#include "client/perplexity.h"
#include "client/proto_fields.h"

namespace mayfly::cli {

struct ScoreResult {
  std::string document;
  TokenScores scores;
  // Effective options of the session.
  v1::AdaptationOptions adaptation;
  UpdateCount updates;
  // Of the reading alone.
  double seconds = 0;

  // Tokens of one row of the report, whether or not anything is learned.
  size_t chunk_tokens() const;
};

// Chunk `index` as fields of a JSON line, and as a line for people.
Json ChunkJson(const TokenScores& scores, size_t chunk_tokens, size_t index);
std::string ChunkLine(const TokenScores& scores, size_t chunk_tokens, size_t index);

// The last JSON line, as the contract has it.
Json SummaryJson(const ScoreResult& result);
// The table, and a sentence that claims no more than was measured.
std::string SummaryText(const ScoreResult& result);

// For the progress bar: "3,521 tokens  ppl 24.10  base 27.60 (-12.7 %)".
std::string RunningNote(const TokenScores& scores);

}  // namespace mayfly::cli
