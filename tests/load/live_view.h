#pragma once

// A run as a terminal shows it: one line, drawn again every second. Elsewhere, a line now and then.

#include <ostream>
#include <string>

#include "tests/load/runner.h"

namespace mayfly::load {

// "12 s steady | 8 open | 231 tokens/s | first token p50 210 p99 903 ms | gap p99 41 ms | ..."
std::string LiveLine(const Progress& progress);

// Used by the run's loop.
class LiveView {
 public:
  LiveView(std::ostream& out, bool is_terminal) : out_(out), is_terminal_(is_terminal) {}

  void Show(const Progress& progress);
  // Leaves the line where it stands.
  void Finish();

 private:
  std::ostream& out_;
  const bool is_terminal_;
  int shown_ = 0;
};

}  // namespace mayfly::load
