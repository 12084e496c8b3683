#include "engine/runtime/sequence.h"

#include <algorithm>

namespace mayfly {

int64_t Window::Restart(uint64_t begin) {
  const uint64_t drop = std::clamp(begin, start, end()) - start;
  tokens.erase(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(drop));
  start += drop;
  kv_length = 0;
  lower_length = std::max<int64_t>(0, lower_length - static_cast<int64_t>(drop));
  return static_cast<int64_t>(drop);
}

void Window::Truncate(uint64_t new_end) {
  if (new_end >= end()) return;
  tokens.resize(new_end > start ? new_end - start : 0);
  kv_length = std::min(kv_length, std::max<int64_t>(0, size() - 1));
  lower_length = std::min(lower_length, std::max<int64_t>(0, size() - 1));
}

bool Sequence::CanStart(const RowWork& work) const {
  if (closing) return false;
  const auto* const learn = std::get_if<UpdateWork>(&work);
  if (learn != nullptr && learn->parallel) return !update;
  const bool waits_for_update = update && !update->parallel;
  if (feed || waits_for_update) return false;
  const bool adds_tokens =
      std::holds_alternative<PrefillWork>(work) || std::holds_alternative<GenerateWork>(work);
  if (adds_tokens || learn != nullptr) return !generating() && !(learn != nullptr && update);
  return std::holds_alternative<ScoreBaseWork>(work) || !update;
}

void Generation::Count(TokenId token) {
  ++tokens;
  if (counts_window()) ++window_counts[token];
  if (counts_generated()) ++generated_counts[token];
}

}  // namespace mayfly
