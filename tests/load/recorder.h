#pragma once

// What a run measures, as its sessions tell it: latencies, counts, goodput, learning, and all of it
// by the second. Of latencies and turns only those count that should have begun in the measured
// window; of tokens and updates, those that came in it. Owned by the runner; used by the loop's
// thread alone.

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "engine/base/clock.h"
#include "mayfly/v1/session.pb.h"
#include "tests/load/histogram.h"
#include "tests/load/slo.h"

namespace mayfly::load {

struct Window {
  // The run's start.
  TimePoint begin;
  TimePoint from;
  TimePoint to;

  bool Contains(TimePoint time) const { return from <= time && time < to; }
};

// One second of the run, from its start on.
struct Second {
  uint64_t tokens = 0;
  uint64_t learned_tokens = 0;
  uint64_t good_turns = 0;
  uint64_t bad_turns = 0;
  uint64_t open_sessions = 0;
  double longest_ttft = 0;
  double longest_gap = 0;
};

struct Measurements {
  // Of the window, as far as the run came.
  double seconds = 0;

  // From when it should have been, seconds: to the session's actual start, to its row, to an
  // append's last answer, to a turn's first token, to a turn's end.
  LatencyHistogram start_lag;
  LatencyHistogram open;
  LatencyHistogram append;
  LatencyHistogram ttft;
  LatencyHistogram turn;
  // Between two messages that brought tokens.
  LatencyHistogram inter_token;

  // By Verdict, and by TurnEnd.
  std::array<uint64_t, 3> turns_judged{};
  std::array<uint64_t, 4> turns_ended{};
  // Of turns that kept the SLO.
  uint64_t good_tokens = 0;

  uint64_t generated_tokens = 0;
  uint64_t appended_tokens = 0;
  // Tokens of the chunks that were learned.
  uint64_t learned_tokens = 0;
  // By outcome.
  std::map<std::string, uint64_t> updates;
  // Nats by which the adapters predicted chunks better than the frozen base did before they learned
  // them, and the tokens of these chunks; measured where sessions ask for receipts.
  double gained_nats = 0;
  uint64_t compared_tokens = 0;

  // The whole run.
  uint64_t all_generated_tokens = 0;
  uint64_t all_appended_tokens = 0;
  uint64_t sessions_started = 0;
  // How sessions ended.
  std::map<std::string, uint64_t> sessions;
  std::vector<Second> by_second;

  uint64_t turns(Verdict verdict) const { return turns_judged[static_cast<size_t>(verdict)]; }
  uint64_t turns(TurnEnd end) const { return turns_ended[static_cast<size_t>(end)]; }
  // Part of the judged turns that kept the SLO; 1 when none was judged.
  double attainment() const;
  // Part of the window's tokens that were learned.
  double learned_fraction() const;
};

class Recorder {
 public:
  Recorder(const Window& window, const Slo& slo) : window_(window), slo_(slo) {}

  void SessionStarted(TimePoint intended, TimePoint at);
  void Opened(TimePoint intended, TimePoint at);
  void Appended(TimePoint intended, TimePoint at, uint64_t tokens);
  void TokensCame(TimePoint at, uint64_t tokens);
  void Updated(TimePoint at, const v1::Update& update);
  // A turn is open from TurnBegan to TurnLeft; it is measured if TurnEnded comes in between.
  void TurnBegan(TimePoint intended) { open_turns_ += window_.Contains(intended); }
  void TurnEnded(const Turn& turn);
  void TurnLeft(TimePoint intended) { open_turns_ -= window_.Contains(intended); }
  void SessionEnded(const std::string& how) { ++result_.sessions[how]; }

  // Called about once a second.
  void Tick(TimePoint at, uint64_t open_sessions);

  // What was measured until `now`.
  Measurements Result(TimePoint now) const;
  const Measurements& so_far() const { return result_; }
  // Of the window.
  int64_t open_turns() const { return open_turns_; }

 private:
  Second& At(TimePoint time);
  void AddLatencies(const Turn& turn);

  const Window window_;
  const Slo slo_;
  Measurements result_;
  int64_t open_turns_ = 0;
};

}  // namespace mayfly::load
