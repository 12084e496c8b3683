#include "tests/load/report_json.h"

#include <utility>

namespace mayfly::load {
namespace {

Json HistogramJson(const LatencyHistogram& histogram) {
  Json json = {{"count", histogram.count()}};
  if (histogram.count() == 0) return json;
  json["mean"] = histogram.mean();
  json["min"] = histogram.min();
  constexpr std::pair<const char*, double> kShares[] = {
      {"p50", 0.5}, {"p90", 0.9}, {"p95", 0.95}, {"p99", 0.99}, {"p999", 0.999}};
  for (const auto& [name, share] : kShares) json[name] = histogram.Percentile(share);
  json["max"] = histogram.max();
  for (const LatencyHistogram::Bucket& bucket : histogram.Buckets()) {
    json["buckets"].push_back({bucket.seconds, bucket.count});
  }
  return json;
}

double Ratio(double dividend, double divisor) { return divisor > 0 ? dividend / divisor : 0; }

Json ArrivalsJson(const Scenario& scenario) {
  if (scenario.arrivals.open_loop()) {
    return {{"kind", "open loop, Poisson"},
            {"sessions_per_second", scenario.arrivals.sessions_per_second}};
  }
  return {{"kind", "closed loop"}, {"sessions", scenario.arrivals.sessions}};
}

Json AskedJson(const Scenario& scenario) {
  Json json = {{"seed", scenario.seed},
               {"arrivals", ArrivalsJson(scenario)},
               {"phases",
                {{"ramp_seconds", scenario.phases.ramp_seconds},
                 {"warmup_seconds", scenario.phases.warmup_seconds},
                 {"steady_seconds", scenario.phases.steady_seconds},
                 {"drain_seconds", scenario.phases.drain_seconds}}},
               {"slo",
                {{"ttft_seconds", scenario.slo.ttft_seconds},
                 {"inter_token_p99_seconds", scenario.slo.inter_token_p99_seconds},
                 {"attainment", scenario.slo.attainment}}}};
  for (const Script& script : scenario.scripts) json["mix"][script.name] = script.weight;
  return json;
}

Json TurnsJson(const Measurements& m) {
  return {{"good", m.turns(Verdict::kGood)},
          {"bad", m.turns(Verdict::kBad)},
          {"not_judged", m.turns(Verdict::kNotJudged)},
          {"complete", m.turns(TurnEnd::kComplete)},
          {"ended_by_script", m.turns(TurnEnd::kByScript)},
          {"failed", m.turns(TurnEnd::kFailed)},
          {"cut", m.turns(TurnEnd::kCut)}};
}

Json GoodputJson(const RunRecord& run) {
  const Measurements& m = run.measurements;
  return {{"attainment", m.attainment()},
          {"slo_kept", KeptSlo(run)},
          {"turns_per_second", Ratio(static_cast<double>(m.turns(Verdict::kGood)), m.seconds)},
          {"tokens_per_second", Ratio(static_cast<double>(m.good_tokens), m.seconds)}};
}

Json TokensJson(const Measurements& m) {
  return {{"generated", m.generated_tokens},
          {"generated_per_second", Ratio(static_cast<double>(m.generated_tokens), m.seconds)},
          {"appended", m.appended_tokens},
          {"appended_per_second", Ratio(static_cast<double>(m.appended_tokens), m.seconds)}};
}

Json LatencyJson(const Measurements& m) {
  return {{"start_lag", HistogramJson(m.start_lag)},     {"open", HistogramJson(m.open)},
          {"append", HistogramJson(m.append)},           {"ttft", HistogramJson(m.ttft)},
          {"inter_token", HistogramJson(m.inter_token)}, {"turn", HistogramJson(m.turn)}};
}

Json BySecondJson(const Measurements& m) {
  Json json = Json::object();
  for (const Second& second : m.by_second) {
    json["tokens"].push_back(second.tokens);
    json["learned_tokens"].push_back(second.learned_tokens);
    json["good_turns"].push_back(second.good_turns);
    json["bad_turns"].push_back(second.bad_turns);
    json["open_sessions"].push_back(second.open_sessions);
    json["longest_ttft"].push_back(second.longest_ttft);
    json["longest_gap"].push_back(second.longest_gap);
  }
  return json;
}

// ---- What the server counted -----------------------------------------------------------------

constexpr char kGenerated[] = "mayfly_tokens_total{kind=\"generated\"}";
constexpr char kTrained[] = "mayfly_tokens_total{kind=\"trained\"}";
// An update that was trained together with others counts the whole pass.
constexpr char kTrainingSeconds[] = "mayfly_adapter_update_duration_seconds_sum";

double Change(const RunRecord& run, const char* name) {
  return SnapshotAt(run.snapshots, run.window.to)[name] -
         SnapshotAt(run.snapshots, run.window.from)[name];
}

Json SeriesJson(const RunRecord& run) {
  constexpr std::pair<const char*, const char*> kGauges[] = {
      {"slots_active", "mayfly_slots{state=\"active\"}"},
      {"requests_waiting", "mayfly_requests_waiting"},
      {"lag_chunks", "mayfly_adapter_update_lag_chunks"},
      {"update_busy_ratio", "mayfly_update_busy_ratio"}};
  Json series = Json::object();
  for (const Snapshot& snapshot : run.snapshots) {
    series["seconds"].push_back(Seconds(snapshot.time - run.window.begin));
    for (const auto& [key, name] : kGauges) series[key].push_back(snapshot[name]);
  }
  return series;
}

Json ServerJson(const RunRecord& run) {
  if (run.snapshots.empty()) return nullptr;
  const Snapshot& first = run.snapshots.front();
  const Snapshot& last = run.snapshots.back();
  const double seconds = Seconds(SnapshotAt(run.snapshots, run.window.to).time -
                                 SnapshotAt(run.snapshots, run.window.from).time);
  return {{"seconds", seconds},
          {"generated_per_second", Ratio(Change(run, kGenerated), seconds)},
          {"trained_per_second", Ratio(Change(run, kTrained), seconds)},
          {"training_seconds", Change(run, kTrainingSeconds)},
          {"cpu_seconds", Change(run, "process_cpu_seconds_total")},
          {"resident_bytes", last["process_resident_memory_bytes"]},
          // Over the whole run, to be compared with what clients counted.
          {"all_generated_tokens", last[kGenerated] - first[kGenerated]},
          {"slots_active_after", last["mayfly_slots{state=\"active\"}"]},
          {"series", SeriesJson(run)}};
}

Json LearningJson(const RunRecord& run) {
  const Measurements& m = run.measurements;
  Json json = {{"learned_tokens", m.learned_tokens},
               {"learned_fraction", m.learned_fraction()},
               {"updates", m.updates}};
  // Known where sessions asked for receipts.
  if (m.compared_tokens == 0) return json;
  json["gained_nats"] = m.gained_nats;
  json["gained_nats_per_token"] = Ratio(m.gained_nats, static_cast<double>(m.compared_tokens));
  if (!run.snapshots.empty()) {
    json["gained_nats_per_busy_second"] = Ratio(m.gained_nats, Change(run, kTrainingSeconds));
  }
  return json;
}

}  // namespace

bool KeptSlo(const RunRecord& run) {
  const Measurements& m = run.measurements;
  const uint64_t judged = m.turns(Verdict::kGood) + m.turns(Verdict::kBad);
  return judged > 0 && m.attainment() >= run.scenario.slo.attainment;
}

Json RunJson(const RunRecord& run) {
  const Measurements& m = run.measurements;
  return {{"asked", AskedJson(run.scenario)},
          {"measured_seconds", m.seconds},
          {"goodput", GoodputJson(run)},
          {"turns", TurnsJson(m)},
          {"sessions_started", m.sessions_started},
          {"sessions", m.sessions},
          {"latency_seconds", LatencyJson(m)},
          {"tokens", TokensJson(m)},
          {"all_generated_tokens", m.all_generated_tokens},
          {"learning", LearningJson(run)},
          {"server", ServerJson(run)},
          {"client_cpu_seconds", run.client_cpu_seconds},
          {"by_second", BySecondJson(m)}};
}

Json CapacityJson(const Capacity& capacity) {
  Json json = {{"sessions_per_second", capacity.sustained}, {"too_much", capacity.too_much}};
  for (const Capacity::Trial& trial : capacity.trials) {
    json["trials"].push_back({{"sessions_per_second", trial.rate}, {"slo_kept", trial.sustained}});
  }
  return json;
}

}  // namespace mayfly::load
