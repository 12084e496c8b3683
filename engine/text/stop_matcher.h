#pragma once

// Looks for stop strings in text that arrives piece by piece, and holds back what may turn out to
// be the start of one. How the text was cut into pieces changes nothing but when it is returned.
// Owned by a generation; one thread.

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace mayfly {

class StopMatcher {
 public:
  // Empty stop strings are left out.
  explicit StopMatcher(std::vector<std::string> stops);

  struct Match {
    // The stop string found, as an index into the constructor's list.
    size_t stop = 0;
    // The Push, counted from 0, that completed it: the token, where each Push is one token's text.
    int64_t push = 0;
  };

  // Returns text that can be part of no stop string. The stop string that is complete first wins
  // (the longest of several that end together); the text before it is returned, and nothing ever
  // after.
  std::string Push(std::string_view text);

  // The text ends here: returns what was held back.
  std::string Flush();

  const std::optional<Match>& match() const { return match_; }

 private:
  // Length of the longest end of `held_` that a stop string starts with.
  size_t PossibleStart() const;

  const std::vector<std::string> stops_;
  std::string held_;
  int64_t pushes_ = 0;
  std::optional<Match> match_;
};

}  // namespace mayfly
