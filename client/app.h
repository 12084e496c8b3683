#pragma once

// The program `mayfly`, without its process: picks the command, and turns its end into an exit
// code.

#include <string>
#include <vector>

#include "client/command.h"

namespace mayfly::cli {

inline constexpr int kExitDone = 0;
inline constexpr int kExitFailed = 1;
inline constexpr int kExitBadUsage = 2;

// `arguments` without the program's name.
int RunApp(const std::vector<std::string>& arguments, Environment& env);

}  // namespace mayfly::cli
