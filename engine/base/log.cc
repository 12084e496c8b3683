#include "engine/base/log.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace mayfly {
namespace {

absl::string_view LevelName(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug: return "debug";
    case LogLevel::kInfo: return "info";
    case LogLevel::kWarning: return "warning";
    case LogLevel::kError: return "error";
  }
  return "unknown";
}

std::string JsonString(absl::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      absl::StrAppendFormat(&quoted, "\\u%04x", c);
    } else {
      quoted += c;
    }
  }
  return quoted + "\"";
}

}  // namespace

void Logger::Log(LogLevel level, absl::string_view event, std::vector<LogField> fields) const {
  if (level < level_) return;
  const std::string line =
      Format(level, event, fields, absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch())) + "\n";
  std::fwrite(line.data(), 1, line.size(), stderr);
}

std::string Logger::Format(LogLevel level, absl::string_view event,
                           const std::vector<LogField>& fields, double unix_seconds) const {
  const std::string time = absl::FormatTime(
      "%Y-%m-%dT%H:%M:%E3SZ", absl::UnixEpoch() + absl::Seconds(unix_seconds), absl::UTCTimeZone());
  const bool json = format_ == LogFormat::kJson;
  std::string line = json ? absl::StrCat("{\"time\":\"", time, "\",\"level\":\"", LevelName(level),
                                         "\",\"event\":", JsonString(event))
                          : absl::StrCat(time, " ", LevelName(level), " ", event);
  for (const LogField& field : fields) {
    const std::string value = field.is_text ? JsonString(field.value) : field.value;
    absl::StrAppend(&line, json ? "," : " ", json ? JsonString(field.name) : field.name,
                    json ? ":" : "=", value);
  }
  return json ? line + "}" : line;
}

void CheckFailed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "%s:%d: broken invariant: %s\n", file, line, condition);
  std::abort();
}

}  // namespace mayfly
