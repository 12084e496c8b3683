#include "client/human_format.h"

#include <cmath>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace mayfly::cli {

std::string Thousands(uint64_t number) {
  const std::string digits = absl::StrCat(number);
  std::string text;
  for (size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text += ',';
    text += digits[i];
  }
  return text;
}

std::string Counted(uint64_t number, absl::string_view noun) {
  return absl::StrCat(Thousands(number), " ", noun, number == 1 ? "" : "s");
}

std::string Bytes(uint64_t bytes) {
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) value /= 1024, ++unit;
  return absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

std::string Parameters(uint64_t count) {
  if (count >= 1'000'000'000) return absl::StrFormat("%.1fB", static_cast<double>(count) / 1e9);
  if (count >= 1'000'000) return absl::StrFormat("%.1fM", static_cast<double>(count) / 1e6);
  return Thousands(count);
}

std::string Percent(double fraction) {
  // No sign on what rounds to nothing.
  if (std::abs(fraction) < 0.0005) return "0.0 %";
  return absl::StrFormat("%+.1f %%", fraction * 100);
}

std::string Elapsed(double seconds) {
  if (seconds < 10) return absl::StrFormat("%.2f s", seconds);
  if (seconds < 600) return absl::StrFormat("%.1f s", seconds);
  const int whole = static_cast<int>(seconds);
  return absl::StrFormat("%d min %02d s", whole / 60, whole % 60);
}

std::string Dim(absl::string_view text, bool is_terminal) {
  return is_terminal ? absl::StrCat("\x1b[2m", text, "\x1b[0m") : std::string(text);
}

}  // namespace mayfly::cli
