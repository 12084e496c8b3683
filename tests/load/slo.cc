#include "tests/load/slo.h"

#include <algorithm>
#include <cmath>

namespace mayfly::load {
namespace {

// The value that `share` of the values do not exceed, by nearest rank; 0 for none.
double Percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  const double wanted = std::ceil(share * static_cast<double>(values.size()));
  const auto rank = values.begin() + static_cast<std::ptrdiff_t>(std::max(wanted, 1.0)) - 1;
  std::nth_element(values.begin(), rank, values.end());
  return *rank;
}

}  // namespace

Verdict Judge(const Turn& turn, const Slo& slo) {
  if (turn.slow_reader) return Verdict::kNotJudged;
  if (turn.end == TurnEnd::kFailed || turn.end == TurnEnd::kCut) return Verdict::kBad;
  if (!turn.ttft_seconds) return Verdict::kNotJudged;
  const bool kept = *turn.ttft_seconds <= slo.ttft_seconds &&
                    Percentile(turn.gaps, 0.99) <= slo.inter_token_p99_seconds;
  return kept ? Verdict::kGood : Verdict::kBad;
}

}  // namespace mayfly::load
