#pragma once

// Runs a session from a text script and writes down what the client saw, so that a new case needs
// no compiler. A script holds a conversation, one line a message:
//
//   # a comment
//   > append "text" score        a command; see scenario.cc for each command's words
//   ! step 5                     something that happens to the engine or the clock
//   < appended tokens=4          what the client sees next; consecutive deltas are one line
//
// Before the first `<` after other lines, the engine works and the client reads until both are
// idle.

#include <string>

namespace mayfly {

// The script with every `<` line replaced by what the client really saw there. A script whose
// promises hold comes back unchanged.
std::string ReplayScenario(const std::string& script);

}  // namespace mayfly
