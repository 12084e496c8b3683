#pragma once

// One line a log event: JSON or text, to stderr, never with a user's text in it. (abseil's logging
// is newer than the abseil we build on.)

#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace mayfly {

enum class LogLevel { kDebug, kInfo, kWarning, kError };
enum class LogFormat { kText, kJson };

// A named value of an event. Numbers are written as JSON numbers.
struct LogField {
  LogField(absl::string_view field, absl::string_view text)
      : name(field), value(text), is_text(true) {}
  LogField(absl::string_view field, const char* text) : LogField(field, absl::string_view(text)) {}
  LogField(absl::string_view field, const std::string& text)
      : LogField(field, absl::string_view(text)) {}
  template <typename Number>
  requires std::is_arithmetic_v<Number> LogField(absl::string_view field, Number number)
      : name(field), value(absl::StrCat(number)), is_text(false) {}

  std::string name;
  std::string value;
  bool is_text;
};

// Writes whole lines; thread-safe.
class Logger {
 public:
  Logger(LogLevel level, LogFormat format) : level_(level), format_(format) {}

  void Log(LogLevel level, absl::string_view event, std::vector<LogField> fields = {}) const;
  void Info(absl::string_view event, std::vector<LogField> fields = {}) const {
    Log(LogLevel::kInfo, event, std::move(fields));
  }
  void Warning(absl::string_view event, std::vector<LogField> fields = {}) const {
    Log(LogLevel::kWarning, event, std::move(fields));
  }
  void Error(absl::string_view event, std::vector<LogField> fields = {}) const {
    Log(LogLevel::kError, event, std::move(fields));
  }

  // The line that Log would write, without its newline.
  std::string Format(LogLevel level, absl::string_view event, const std::vector<LogField>& fields,
                     double unix_seconds) const;

 private:
  const LogLevel level_;
  const LogFormat format_;
};

// Ends the process with the place and the broken invariant. Only for our own mistakes: nothing that
// a client sends may reach it.
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition);

}  // namespace mayfly

#define MAYFLY_CHECK(condition) \
  ((condition) ? void(0) : ::mayfly::CheckFailed(__FILE__, __LINE__, #condition))
