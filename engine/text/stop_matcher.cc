#include "engine/text/stop_matcher.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace mayfly {

StopMatcher::StopMatcher(std::vector<std::string> stops) : stops_(std::move(stops)) {}

std::string StopMatcher::Push(std::string_view text) {
  const int64_t push = pushes_++;
  if (match_.has_value()) return {};
  held_ += text;

  size_t first_end = std::numeric_limits<size_t>::max();
  size_t start = 0;
  for (size_t i = 0; i < stops_.size(); ++i) {
    if (stops_[i].empty()) continue;
    const size_t found = held_.find(stops_[i]);
    if (found == std::string::npos) continue;
    const size_t end = found + stops_[i].size();
    if (end < first_end || (end == first_end && found < start)) {
      first_end = end;
      start = found;
      match_ = Match{i, push};
    }
  }
  const size_t safe = match_.has_value() ? start : held_.size() - PossibleStart();
  std::string out = held_.substr(0, safe);
  held_.erase(0, safe);
  if (match_.has_value()) held_.clear();
  return out;
}

std::string StopMatcher::Flush() { return std::exchange(held_, {}); }

size_t StopMatcher::PossibleStart() const {
  size_t longest = 0;
  for (const std::string& stop : stops_) {
    if (stop.empty()) continue;
    for (size_t size = std::min(stop.size() - 1, held_.size()); size > longest; --size) {
      if (std::string_view(held_).ends_with(std::string_view(stop).substr(0, size))) {
        longest = size;
        break;
      }
    }
  }
  return longest;
}

}  // namespace mayfly
