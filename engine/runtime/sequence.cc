#include "engine/runtime/sequence.h"

#include <algorithm>

namespace mayfly {

void Window::Restart(uint64_t begin) {
  const uint64_t drop = std::clamp(begin, start, end()) - start;
  tokens.erase(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(drop));
  start += drop;
  kv_length = 0;
}

void Window::Truncate(uint64_t new_end) {
  if (new_end >= end()) return;
  tokens.resize(new_end > start ? new_end - start : 0);
  kv_length = std::min(kv_length, std::max<int64_t>(0, size() - 1));
}

void Generation::Count(TokenId token) {
  ++tokens;
  if (counts_window()) ++window_counts[token];
  if (counts_generated()) ++generated_counts[token];
}

}  // namespace mayfly
