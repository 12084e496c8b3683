#include "tests/load/report_html.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/load/svg_chart.h"

namespace mayfly::load {
namespace {

using cli::Json;

constexpr char kHead[] = R"(<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>mayfly_load</title>
<style>
:root { color-scheme: light dark; --back: #fff; --ink: #1c1e21; --faint: #e2e4e8;
        --c0: #1f5fbf; --c1: #c2410c; --c2: #15803d; --c3: #7e22ce; }
@media (prefers-color-scheme: dark) {
  :root { --back: #16181c; --ink: #e6e8eb; --faint: #31353b;
          --c0: #7fb0ff; --c1: #ff9a62; --c2: #5fd38a; --c3: #d0a0ff; } }
body { font: 15px/1.45 system-ui, sans-serif; background: var(--back); color: var(--ink);
       max-width: 1320px; margin: 0 auto; padding: 16px; }
table { border-collapse: collapse; margin: 12px 0; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 3px 10px; border-bottom: 1px solid var(--faint); }
th:first-child, td:first-child { text-align: left; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); gap: 16px; }
.wide { overflow-x: auto; }
svg { width: 100%; height: auto; } svg text { fill: currentColor; font-size: 12px; }
.grid { stroke: var(--faint); } polyline { fill: none; stroke-width: 1.6; }
.line0 { stroke: var(--c0); } .line1 { stroke: var(--c1); }
.line2 { stroke: var(--c2); } .line3 { stroke: var(--c3); }
.good { color: var(--c2); } .bad { color: var(--c1); }
</style></head><body>
)";

// ---- Values ------------------------------------------------------------------------------------

double NumberOf(const Json& json, const char* key) {
  const auto found = json.find(key);
  return found != json.end() && found->is_number() ? found->get<double>() : 0;
}

std::string Shown(const Json& value) {
  if (value.is_number_float()) return absl::StrFormat("%.4g", value.get<double>());
  return value.is_string() ? value.get<std::string>() : value.dump();
}

std::string Row(const std::vector<std::string>& cells, const char* tag = "td") {
  std::string row = "<tr>";
  for (const std::string& cell : cells) {
    absl::StrAppend(&row, "<", tag, ">", EscapeHtml(cell), "</", tag, ">");
  }
  return absl::StrCat(row, "</tr>\n");
}

std::string Table(const std::string& rows) {
  return absl::StrCat("<div class=\"wide\"><table>\n", rows, "</table></div>\n");
}

// One row for each member that is a plain value; the members of objects in it have their names in
// front.
std::string Facts(const Json& object, const std::string& prefix = "") {
  std::string rows;
  for (const auto& [key, value] : object.items()) {
    if (value.is_object()) absl::StrAppend(&rows, Facts(value, absl::StrCat(prefix, key, " ")));
    if (value.is_primitive()) absl::StrAppend(&rows, Row({prefix + key, Shown(value)}));
  }
  return rows;
}

// ---- One run -----------------------------------------------------------------------------------

std::string LatencyTable(const Json& latencies) {
  constexpr const char* kColumns[] = {"mean", "p50", "p90", "p95", "p99", "p999", "max"};
  std::vector<std::string> head = {"milliseconds", "count"};
  head.insert(head.end(), std::begin(kColumns), std::end(kColumns));
  std::string rows = Row(head, "th");
  for (const auto& [name, latency] : latencies.items()) {
    std::vector<std::string> cells = {name, Shown(latency["count"])};
    for (const char* column : kColumns) {
      cells.push_back(
          latency.contains(column) ? absl::StrFormat("%.1f", 1e3 * NumberOf(latency, column)) : "");
    }
    absl::StrAppend(&rows, Row(cells));
  }
  return Table(rows);
}

// Percentiles on a scale that gives the tail room: 90, 99 and 99.9 % are as far apart as they are
// rare.
Series Tail(const Json& latencies, const char* name) {
  Series series{name, {}};
  const Json& latency = latencies[name];
  if (!latency.contains("buckets")) return series;
  const double count = NumberOf(latency, "count");
  double below = 0;
  for (const Json& bucket : latency["buckets"]) {
    const double ms = 1e3 * bucket[0].get<double>();
    series.points.emplace_back(-std::log10(1 - below / count), ms);
    below += bucket[1].get<double>();
  }
  return series;
}

Chart TailChart(const Json& latencies, std::string title, const std::vector<const char*>& names) {
  Chart chart{std::move(title), "percentile", "ms", {}, {}};
  for (const char* name : names) chart.series.push_back(Tail(latencies, name));
  chart.x_ticks = {{0, "0"},  {std::log10(2), "50"}, {1, "90"},
                   {2, "99"}, {3, "99.9"},           {4, "99.99"}};
  return chart;
}

// Names of the series and the members that hold them.
using Columns = std::vector<std::pair<const char*, const char*>>;

// Columns over the seconds of the run, or over `seconds` if that is a column too.
Chart TimeChart(const Json& columns, std::string title, std::string y_label, const Columns& shown) {
  Chart chart{std::move(title), "seconds", std::move(y_label), {}, {}};
  for (const auto& [name, key] : shown) {
    Series series{name, {}};
    const Json values = columns.contains(key) ? columns[key] : Json::array();
    for (size_t i = 0; i < values.size(); ++i) {
      const double at = columns.contains("seconds") ? columns["seconds"][i].get<double>()
                                                    : static_cast<double>(i);
      series.points.emplace_back(at, values[i].get<double>());
    }
    chart.series.push_back(std::move(series));
  }
  return chart;
}

std::string Charts(const Json& run) {
  const Json& latencies = run["latency_seconds"];
  const Json& seconds = run["by_second"];
  std::string charts =
      absl::StrCat(SvgChart(TailChart(latencies, "First token and turn", {"ttft", "turn"})),
                   SvgChart(TailChart(latencies, "Between tokens", {"inter_token"})),
                   SvgChart(TimeChart(seconds, "Tokens", "a second",
                                      {{"generated", "tokens"}, {"learned", "learned_tokens"}})),
                   SvgChart(TimeChart(seconds, "Turns that ended", "a second",
                                      {{"good", "good_turns"}, {"bad", "bad_turns"}})),
                   SvgChart(TimeChart(seconds, "Longest waits", "s",
                                      {{"first token", "longest_ttft"}, {"gap", "longest_gap"}})),
                   SvgChart(TimeChart(seconds, "Sessions", "open", {{"open", "open_sessions"}})));
  if (run["server"].is_object()) {
    const Json& series = run["server"]["series"];
    absl::StrAppend(&charts,
                    SvgChart(TimeChart(series, "Server", "rows, requests, chunks",
                                       {{"active rows", "slots_active"},
                                        {"waiting", "requests_waiting"},
                                        {"lag chunks", "lag_chunks"}})),
                    SvgChart(TimeChart(series, "Training", "busy part of the last minute",
                                       {{"busy", "update_busy_ratio"}})));
  }
  return absl::StrCat("<div class=\"charts\">\n", charts, "</div>\n");
}

std::string Headline(const Json& run) {
  const bool kept = run["goodput"]["slo_kept"].get<bool>();
  return absl::StrFormat(
      "<p><b class=\"%s\">SLO %s</b>: %.1f %% of turns; goodput %.3g turns/s, %.4g tokens/s; "
      "%.4g tokens/s generated; %.0f %% of tokens learned.</p>\n",
      kept ? "good" : "bad", kept ? "kept" : "missed", 1e2 * NumberOf(run["goodput"], "attainment"),
      NumberOf(run["goodput"], "turns_per_second"), NumberOf(run["goodput"], "tokens_per_second"),
      NumberOf(run["tokens"], "generated_per_second"),
      1e2 * NumberOf(run["learning"], "learned_fraction"));
}

std::string RunSection(const Json& run) {
  const Json& arrivals = run["asked"]["arrivals"];
  const std::string load =
      arrivals.contains("sessions")
          ? absl::StrCat("closed loop, ", Shown(arrivals["sessions"]), " sessions")
          : absl::StrCat("open loop, ", Shown(arrivals["sessions_per_second"]), " sessions/s");
  Json others = run;
  for (const char* shown : {"latency_seconds", "by_second"}) others.erase(shown);
  return absl::StrCat("<h2>", EscapeHtml(load), "</h2>\n", Headline(run), Charts(run),
                      LatencyTable(run["latency_seconds"]),
                      "<details><summary>All figures</summary>", Table(Facts(others)),
                      "</details>\n");
}

// ---- A search ----------------------------------------------------------------------------------

std::string CapacitySection(const Json& report) {
  const Json& capacity = report["capacity"];
  std::string rows = Row({"sessions/s", "SLO", "turns that kept it"}, "th");
  Series attainment{"% of turns", {}};
  for (size_t i = 0; i < capacity["trials"].size(); ++i) {
    const Json& trial = capacity["trials"][i];
    const double share = 1e2 * NumberOf(report["runs"][i]["goodput"], "attainment");
    const double rate = NumberOf(trial, "sessions_per_second");
    absl::StrAppend(&rows, Row({absl::StrFormat("%.3g", rate),
                                trial["slo_kept"].get<bool>() ? "kept" : "missed",
                                absl::StrFormat("%.1f %%", share)}));
    attainment.points.emplace_back(rate, share);
  }
  std::sort(attainment.points.begin(), attainment.points.end());
  return absl::StrCat(
      "<h2>Capacity</h2>\n",
      absl::StrFormat("<p>The highest rate that kept the SLO: <b>%.3g sessions/s</b>.</p>\n",
                      NumberOf(capacity, "sessions_per_second")),
      "<div class=\"charts\">",
      SvgChart({"Turns that kept the SLO", "sessions a second", "%", {attainment}, {}}), "</div>\n",
      Table(rows));
}

}  // namespace

std::string ReportHtml(const Json& report) {
  std::string page =
      absl::StrCat(kHead, "<h1>mayfly_load</h1>\n", Table(Facts(report["conditions"])));
  if (report.contains("capacity")) absl::StrAppend(&page, CapacitySection(report));
  for (const Json& run : report["runs"]) absl::StrAppend(&page, RunSection(run));
  return absl::StrCat(page, "</body></html>\n");
}

}  // namespace mayfly::load
