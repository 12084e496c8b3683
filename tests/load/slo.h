#pragma once

// What is promised to a client, and whether one turn kept it. A turn is what a client sends up to a
// generation, and that generation: the unit in which goodput counts. Pure.

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/base/clock.h"

namespace mayfly::load {

struct Slo {
  // From a turn's intended beginning to its first token.
  double ttft_seconds = 1;
  // 99 % of a turn's tokens come within this after the one before.
  double inter_token_p99_seconds = 0.2;
  // A run keeps the SLO when this part of its turns does.
  double attainment = 0.99;
};

enum class TurnEnd {
  kComplete,
  // The script cancelled it, left, or set a deadline.
  kByScript,
  // Refused, failed, or dropped before it began.
  kFailed,
  // The run was over first.
  kCut,
};

struct Turn {
  // When its first command should have been sent: at the session's arrival, when the answer before
  // it came, or when the client had thought for long enough. Everything counts from here, so that a
  // client or a server that comes late hides nothing.
  TimePoint intended;
  TimePoint ended;
  TurnEnd end = TurnEnd::kComplete;
  std::optional<double> ttft_seconds;
  // Between the messages that brought tokens, seconds.
  std::vector<double> gaps;
  uint64_t tokens = 0;
  // A client that reads slowly on purpose says nothing about the server.
  bool slow_reader = false;
};

enum class Verdict { kGood, kBad, kNotJudged };

// A turn that the script ended is judged by the tokens that had come; one without any (the model's
// first token may end a generation) is not judged.
Verdict Judge(const Turn& turn, const Slo& slo);

}  // namespace mayfly::load
