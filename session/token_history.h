#pragma once

// The newest tokens of one stream with what learning needs to know of each: where it came from,
// whether it may be learned, and how probable the adapter and the frozen base held it. Positions
// count from the start of the stream. Owned by RowPlanner; not thread-safe.

#include <cmath>
#include <cstdint>
#include <deque>
#include <limits>
#include <vector>

#include "engine/types.h"

namespace mayfly {

enum class TokenOrigin { kInput, kOutput };

struct HistoryToken {
  TokenId id = 0;
  TokenOrigin origin = TokenOrigin::kInput;
  // The client's word on whether this token may be learned.
  bool learn = true;
  // The version that scored or generated it.
  uint64_t adapter_version = 0;
  // Nats; NaN where it was not measured.
  float logprob = std::numeric_limits<float>::quiet_NaN();
  float base_logprob = std::numeric_limits<float>::quiet_NaN();
};

class TokenHistory {
 public:
  TokenHistory() = default;
  // Goes on from the newest tokens of a stream, the first of them at `begin`.
  TokenHistory(uint64_t begin, const std::vector<HistoryToken>& tokens)
      : begin_(begin), tokens_(tokens.begin(), tokens.end()) {}

  void Append(const HistoryToken& token) { tokens_.push_back(token); }
  void SetBaseLogprob(uint64_t position, float logprob);
  // Forgets what lies before `position`.
  void DropBefore(uint64_t position);

  // The oldest position still known, and the one after the newest.
  uint64_t begin() const { return begin_; }
  uint64_t end() const { return begin_ + tokens_.size(); }
  const HistoryToken& at(uint64_t position) const;

 private:
  uint64_t begin_ = 0;
  std::deque<HistoryToken> tokens_;
};

// Stream positions [begin, end).
struct TokenSpan {
  uint64_t begin = 0;
  uint64_t end = 0;

  uint64_t size() const { return end - begin; }
  bool operator==(const TokenSpan&) const = default;
};

}  // namespace mayfly
