#include "tests/load/recorder.h"

#include <algorithm>

#include "client/proto_fields.h"

namespace mayfly::load {

double Measurements::attainment() const {
  const uint64_t judged = turns(Verdict::kGood) + turns(Verdict::kBad);
  if (judged == 0) return 1;
  return static_cast<double>(turns(Verdict::kGood)) / static_cast<double>(judged);
}

double Measurements::learned_fraction() const {
  const uint64_t tokens = generated_tokens + appended_tokens;
  return tokens == 0 ? 0 : static_cast<double>(learned_tokens) / static_cast<double>(tokens);
}

void Recorder::SessionStarted(TimePoint intended, TimePoint at) {
  ++result_.sessions_started;
  if (window_.Contains(intended)) result_.start_lag.Record(Seconds(at - intended));
}

void Recorder::Opened(TimePoint intended, TimePoint at) {
  if (window_.Contains(intended)) result_.open.Record(Seconds(at - intended));
}

void Recorder::Appended(TimePoint intended, TimePoint at, uint64_t tokens) {
  result_.all_appended_tokens += tokens;
  if (window_.Contains(at)) result_.appended_tokens += tokens;
  if (window_.Contains(intended)) result_.append.Record(Seconds(at - intended));
}

void Recorder::TokensCame(TimePoint at, uint64_t tokens) {
  result_.all_generated_tokens += tokens;
  if (window_.Contains(at)) result_.generated_tokens += tokens;
  At(at).tokens += tokens;
}

void Recorder::Updated(TimePoint at, const v1::Update& update) {
  const bool applied = update.outcome() == v1::UPDATE_OUTCOME_APPLIED;
  if (applied) At(at).learned_tokens += update.tokens();
  if (!window_.Contains(at)) return;
  ++result_.updates[cli::EnumValueName(
      v1::UpdateOutcome_descriptor()->FindValueByNumber(update.outcome()))];
  if (applied) result_.learned_tokens += update.tokens();
  if (update.has_nll() && update.has_base_nll()) {
    result_.gained_nats += (update.base_nll() - update.nll()) * update.label_tokens();
    result_.compared_tokens += update.label_tokens();
  }
}

void Recorder::TurnEnded(const Turn& turn) {
  const Verdict verdict = Judge(turn, slo_);
  Second& second = At(turn.ended);
  second.good_turns += verdict == Verdict::kGood;
  second.bad_turns += verdict == Verdict::kBad;
  if (!window_.Contains(turn.intended)) return;
  ++result_.turns_judged[static_cast<size_t>(verdict)];
  ++result_.turns_ended[static_cast<size_t>(turn.end)];
  if (verdict == Verdict::kGood) result_.good_tokens += turn.tokens;
  if (!turn.slow_reader) AddLatencies(turn);
}

void Recorder::AddLatencies(const Turn& turn) {
  const double seconds = Seconds(turn.ended - turn.intended);
  if (turn.end == TurnEnd::kComplete) result_.turn.Record(seconds);
  for (const double gap : turn.gaps) result_.inter_token.Record(gap);
  Second& second = At(turn.ended);
  for (const double gap : turn.gaps) second.longest_gap = std::max(second.longest_gap, gap);
  // A client that waited in vain until the run was over has waited at least for so long.
  const bool in_vain = turn.end == TurnEnd::kCut && !turn.ttft_seconds;
  if (!turn.ttft_seconds && !in_vain) return;
  const double ttft = turn.ttft_seconds.value_or(seconds);
  result_.ttft.Record(ttft);
  second.longest_ttft = std::max(second.longest_ttft, ttft);
}

void Recorder::Tick(TimePoint at, uint64_t open_sessions) { At(at).open_sessions = open_sessions; }

Measurements Recorder::Result(TimePoint now) const {
  Measurements result = result_;
  result.seconds = std::max(0.0, Seconds(std::min(now, window_.to) - window_.from));
  return result;
}

Second& Recorder::At(TimePoint time) {
  const auto index = static_cast<size_t>(std::max(0.0, Seconds(time - window_.begin)));
  if (index >= result_.by_second.size()) result_.by_second.resize(index + 1);
  return result_.by_second[index];
}

}  // namespace mayfly::load
