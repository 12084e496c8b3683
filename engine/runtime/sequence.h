#pragma once

// All that the engine knows of one row: the tokens of its window, how far its keys and values
// reach, the work that runs and the work that waits. Plain state without tensors; owned by the
// engine loop.

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <unordered_set>
#include <variant>
#include <vector>

#include "engine/base/clock.h"
#include "engine/engine.h"
#include "engine/runtime/sampler.h"
#include "engine/types.h"

namespace mayfly {

// The newest tokens of a stream. Keys and values lag one token behind: the newest token is fed in
// the step that needs what comes after it, so that every token is predicted under one adapter
// version.
struct Window {
  std::vector<TokenId> tokens;
  // Stream position of tokens[0].
  uint64_t start = 0;
  // tokens[0, kv_length) have keys and values.
  int64_t kv_length = 0;
  // tokens[0, lower_length) have keys, values and inputs of the layers below the adapter: those of
  // tokens that are still to be fed as well, after a restart. Of rows that keep them alone.
  int64_t lower_length = 0;
  // The most positions ever written since the row was zero.
  int64_t kv_written = 0;

  int64_t size() const { return static_cast<int64_t>(tokens.size()); }
  // Stream position just after the newest token.
  uint64_t end() const { return start + tokens.size(); }
  // Tokens to feed until the next token can be predicted from all but the newest.
  int64_t to_feed() const { return size() - 1 - kv_length; }

  // Drops what lies before stream position `begin`; no token has keys any more, but lower ones.
  // Returns how many were dropped.
  int64_t Restart(uint64_t begin);
  // Drops the tokens from stream position `new_end` on.
  void Truncate(uint64_t new_end);
};

// Feeding tokens that are in the window: what a prefill, a refresh and a comparison have in common.
struct Feed {
  WorkId id = 0;
  enum class Kind { kPrefill, kRefresh, kScoreBase } kind = Kind::kPrefill;
  // The base model's keys and values live in a row of their own.
  bool base = false;
  // Scores the tokens of the window from here on; the window's size: none.
  int64_t score_from = 0;
  int64_t score_to = 0;
  // A prefill that also compares runs a second feed after the first.
  bool then_base = false;
  int32_t tokens = 0;
  std::vector<float> logprobs = {};
  std::vector<float> base_logprobs = {};
};

struct Generation {
  WorkId id = 0;
  GenerateWork work;
  TokenCounts window_counts;     // only with a repetition penalty
  TokenCounts generated_counts;  // only with a frequency or presence penalty
  int32_t tokens = 0;
  // Stream position of its first token.
  uint64_t begin = 0;
  bool paused = false;
  bool finished = false;
  TimePoint submitted;
  std::optional<TimePoint> started;
  std::optional<TimePoint> first_token;

  bool counts_window() const { return work.sampling.repetition_penalty != 1.0; }
  bool counts_generated() const {
    return work.sampling.frequency_penalty != 0 || work.sampling.presence_penalty != 0;
  }
  void Count(TokenId token);
};

struct UpdateInFlight {
  WorkId id = 0;
  // The row goes on meanwhile.
  bool parallel = false;
  // Read by the trainer before each layer.
  std::shared_ptr<std::atomic<bool>> cancelled;
};

struct QueuedWork {
  WorkId id = 0;
  RowWork work;
  TimePoint submitted;
};

struct Sequence {
  RowHandle handle;
  std::shared_ptr<TokenSink> sink;
  RowOptions options;
  Window window;
  uint64_t version = 0;
  int64_t optimizer_steps = 0;

  int32_t tenant = 0;

  std::deque<QueuedWork> queue;
  std::optional<Feed> feed;
  // The present generation, or the last one until other work starts.
  std::optional<Generation> generation;
  // Set from the start of an update until its result has taken effect: the row's masters, moments
  // and shadow are the trainer's.
  std::optional<UpdateInFlight> update;

  bool closing = false;
  TimePoint close_requested;

  bool generating() const { return generation && !generation->finished && !generation->paused; }
  // Whether waiting work may start now: the rules of engine/types.h.
  bool CanStart(const RowWork& work) const;
};

}  // namespace mayfly
