#include "server/process_stats.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace mayfly {
namespace {

std::string ReadFile(const char* path) {
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// The fields of /proc/self/stat from the third on (proc(5)); the second, the name, may hold spaces.
std::vector<uint64_t> StatFields() {
  const std::string text = ReadFile("/proc/self/stat");
  const size_t name_end = text.rfind(')');
  std::vector<uint64_t> fields;
  if (name_end == text.npos) return fields;
  for (absl::string_view field :
       absl::StrSplit(text.substr(name_end + 1), ' ', absl::SkipEmpty())) {
    uint64_t value = 0;
    (void)absl::SimpleAtoi(field, &value);
    fields.push_back(value);
  }
  return fields;
}

// When the machine started, seconds since the Unix epoch.
double BootTime() {
  const std::string text = ReadFile("/proc/stat");
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    double seconds = 0;
    if (absl::ConsumePrefix(&line, "btime ") && absl::SimpleAtod(line, &seconds)) return seconds;
  }
  return 0;
}

uint64_t CountOpenFds() {
  std::error_code error;
  uint64_t count = 0;
  for (auto i = std::filesystem::directory_iterator("/proc/self/fd", error);
       !error && i != std::filesystem::directory_iterator(); i.increment(error)) {
    ++count;
  }
  // One of them was the listing itself.
  return count > 0 ? count - 1 : 0;
}

}  // namespace

ProcessStats ReadProcessStats() {
  // Positions in StatFields(): proc(5) numbers utime 14, stime 15, starttime 22, vsize 23, rss 24.
  constexpr size_t kUserTime = 11, kSystemTime = 12, kStartTime = 19, kVirtual = 20, kResident = 21;
  ProcessStats stats;
  const std::vector<uint64_t> fields = StatFields();
  if (fields.size() > kResident) {
    const double ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
    stats.cpu_seconds = static_cast<double>(fields[kUserTime] + fields[kSystemTime]) / ticks;
    stats.start_time_seconds = BootTime() + static_cast<double>(fields[kStartTime]) / ticks;
    stats.virtual_bytes = fields[kVirtual];
    stats.resident_bytes = fields[kResident] * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  }
  stats.open_fds = CountOpenFds();
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) stats.max_fds = limit.rlim_cur;
  return stats;
}

}  // namespace mayfly
