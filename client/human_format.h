#pragma once

// Numbers as people read them. Pure functions.

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace mayfly::cli {

// 12345 is "12,345".
std::string Thousands(uint64_t number);

// "1 update", "2 updates".
std::string Counted(uint64_t number, absl::string_view noun);

// In binary units: "213.4 MiB".
std::string Bytes(uint64_t bytes);

// "134.5M", as sizes of models are written.
std::string Parameters(uint64_t count);

// A relative change with its sign: -0.106 is "-10.6 %".
std::string Percent(double fraction);

// "0.12 s", "92.1 s", "12 min 05 s".
std::string Elapsed(double seconds);

// Dimmed where the terminal understands it, plain elsewhere.
std::string Dim(absl::string_view text, bool is_terminal);

}  // namespace mayfly::cli
