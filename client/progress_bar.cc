#include "client/progress_bar.h"

#include <algorithm>
#include <chrono>
#include <string>

#include "absl/strings/str_format.h"

namespace mayfly::cli {
namespace {

constexpr int kBarWidth = 24;
constexpr auto kRedrawEvery = std::chrono::milliseconds(100);
constexpr absl::string_view kClearLine = "\r\x1b[K";

std::string Line(double fraction, absl::string_view note, size_t columns) {
  const int filled = static_cast<int>(fraction * kBarWidth);
  std::string line =
      absl::StrFormat("[%s%s] %3d %%  %s", std::string(filled, '='),
                      std::string(kBarWidth - filled, ' '), static_cast<int>(fraction * 100), note);
  return line.substr(0, columns);
}

}  // namespace

ProgressBar::ProgressBar(std::ostream& out, const Clock& clock, Options options)
    : out_(out), clock_(clock), options_(options) {}

ProgressBar::~ProgressBar() { Clear(); }

void ProgressBar::Show(double fraction, absl::string_view note) {
  if (!options_.enabled) return;
  const TimePoint now = clock_.Now();
  if (drawn_at_ && now - *drawn_at_ < kRedrawEvery) return;
  drawn_at_ = now;
  // A terminal wraps when its last column is written.
  const size_t columns = static_cast<size_t>(std::max(options_.columns - 1, 0));
  out_ << kClearLine << Line(std::clamp(fraction, 0.0, 1.0), note, columns) << std::flush;
}

void ProgressBar::Clear() {
  if (!drawn_at_) return;
  drawn_at_.reset();
  out_ << kClearLine << std::flush;
}

}  // namespace mayfly::cli
