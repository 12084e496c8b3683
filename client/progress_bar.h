#pragma once

// One line of a terminal that is drawn again and again: a bar, a percentage and a note. Owned by
// the command that makes progress; one thread. Switched off it writes nothing.

#include <optional>
#include <ostream>

#include "absl/strings/string_view.h"
#include "engine/base/clock.h"

namespace mayfly::cli {

class ProgressBar {
 public:
  struct Options {
    bool enabled = false;
    // Width of the terminal; the line is cut there, since a wrapped line could not be drawn over.
    int columns = 80;
  };

  ProgressBar(std::ostream& out, const Clock& clock, Options options);
  // Leaves a clear line.
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // `fraction` in [0, 1]; `note` is ASCII. Draws at most ten times a second.
  void Show(double fraction, absl::string_view note);
  // Takes the line away, so that something else can be written; the next Show draws at once.
  void Clear();

 private:
  std::ostream& out_;
  const Clock& clock_;
  const Options options_;
  // Absent while no line is drawn.
  std::optional<TimePoint> drawn_at_;
};

}  // namespace mayfly::cli
