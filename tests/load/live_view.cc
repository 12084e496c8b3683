#include "tests/load/live_view.h"

#include "absl/strings/str_format.h"

namespace mayfly::load {
namespace {

// Without a terminal, one line in so many calls.
constexpr int kLogEvery = 10;

const char* Name(Phase phase) {
  switch (phase) {
    case Phase::kRamp: return "ramp";
    case Phase::kWarmup: return "warm-up";
    case Phase::kSteady: return "steady";
    case Phase::kDrain: return "drain";
  }
  return "";
}

// Of the last second that is complete.
uint64_t TokensPerSecond(const Progress& progress) {
  const auto second = static_cast<size_t>(progress.seconds);
  const auto& seconds = progress.so_far->by_second;
  return second == 0 || second > seconds.size() ? 0 : seconds[second - 1].tokens;
}

}  // namespace

std::string LiveLine(const Progress& progress) {
  const Measurements& m = *progress.so_far;
  return absl::StrFormat(
      "%3.0f s %-7s | %3d open | %4d tokens/s | first token p50 %.0f p99 %.0f ms | gap p99 %.0f ms "
      "| "
      "turns %d good %d bad | learned %.0f %%",
      progress.seconds, Name(progress.phase), progress.open_sessions, TokensPerSecond(progress),
      1e3 * m.ttft.Percentile(0.5), 1e3 * m.ttft.Percentile(0.99),
      1e3 * m.inter_token.Percentile(0.99), m.turns(Verdict::kGood), m.turns(Verdict::kBad),
      1e2 * m.learned_fraction());
}

void LiveView::Show(const Progress& progress) {
  if (is_terminal_) {
    out_ << "\r\x1b[K" << LiveLine(progress) << std::flush;
  } else if (shown_ % kLogEvery == 0) {
    out_ << LiveLine(progress) << std::endl;
  }
  ++shown_;
}

void LiveView::Finish() {
  if (is_terminal_) out_ << std::endl;
}

}  // namespace mayfly::load
