#include "tests/load/report_text.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace mayfly::load {
namespace {

using cli::Json;

std::string LatencyLine(const char* name, const Json& latency) {
  if (!latency.contains("p50")) return "";
  const auto ms = [&](const char* key) { return 1e3 * latency[key].get<double>(); };
  return absl::StrFormat("  %-13s p50 %.1f  p95 %.1f  p99 %.1f  max %.1f ms  (%d)\n", name,
                         ms("p50"), ms("p95"), ms("p99"), ms("max"),
                         latency["count"].get<uint64_t>());
}

std::string RunText(const Json& run) {
  const Json& goodput = run["goodput"];
  const Json& latencies = run["latency_seconds"];
  return absl::StrCat(
      absl::StrFormat(
          "%s\n  SLO %s: %.1f %% of turns, %.4g turns/s and %.4g tokens/s within it\n",
          run["asked"]["arrivals"].dump(), goodput["slo_kept"].get<bool>() ? "kept" : "missed",
          1e2 * goodput["attainment"].get<double>(), goodput["turns_per_second"].get<double>(),
          goodput["tokens_per_second"].get<double>()),
      LatencyLine("first token", latencies["ttft"]),
      LatencyLine("inter-token", latencies["inter_token"]), LatencyLine("turn", latencies["turn"]),
      LatencyLine("start lag", latencies["start_lag"]),
      absl::StrFormat("  %.4g tokens/s generated, %.4g appended, %.0f %% learned; sessions: %s\n",
                      run["tokens"]["generated_per_second"].get<double>(),
                      run["tokens"]["appended_per_second"].get<double>(),
                      1e2 * run["learning"]["learned_fraction"].get<double>(),
                      run["sessions"].dump()));
}

}  // namespace

std::string ReportText(const Json& report) {
  std::string text;
  for (const Json& run : report["runs"]) absl::StrAppend(&text, RunText(run));
  if (!report.contains("capacity")) return text;
  return absl::StrCat(text,
                      absl::StrFormat("capacity: %.3g sessions/s keep the SLO\n",
                                      report["capacity"]["sessions_per_second"].get<double>()));
}

}  // namespace mayfly::load
