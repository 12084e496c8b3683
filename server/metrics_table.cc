#include "server/metrics_table.h"

#include <array>
#include <functional>
#include <string>
#include <utility>

#include "server/process_stats.h"
#include "server/version.h"

namespace mayfly {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricType;
using Label = ClientMetric::Label;
using Labels = std::vector<Label>;
using Values = std::vector<ClientMetric>;

// What one collection reads.
struct Reading {
  const Engine& engine;
  const EngineMetrics& rows;
  const SessionMetrics& sessions;
  const ServerMetrics& server;
  const SecurityMetrics& security;
  const ProcessStats process;
};

struct Metric {
  const char* name;
  MetricType type;
  const char* help;
  std::function<Values(const Reading&)> read;
};

// ---- One value with its labels -------------------------------------------------------------

// Sets the value under both types; the family's type chooses which one is printed.
ClientMetric Value(double value, Labels labels = {}) {
  ClientMetric metric;
  metric.label = std::move(labels);
  metric.counter.value = value;
  metric.gauge.value = value;
  return metric;
}

ClientMetric Value(const Counter& counter, Labels labels = {}) {
  return Value(static_cast<double>(counter.value()), std::move(labels));
}

ClientMetric Value(const Gauge& gauge, Labels labels = {}) {
  return Value(gauge.value(), std::move(labels));
}

ClientMetric Value(const Histogram& histogram, Labels labels = {}) {
  ClientMetric metric;
  metric.label = std::move(labels);
  uint64_t count = 0;
  for (size_t i = 0; i < histogram.bounds().size(); ++i) {
    count += histogram.bucket(i);
    metric.histogram.bucket.push_back({count, histogram.bounds()[i]});
  }
  metric.histogram.sample_count = count + histogram.bucket(histogram.bounds().size());
  metric.histogram.sample_sum = histogram.sum();
  return metric;
}

Values Attempts(const SessionMetrics::Attempts& attempts) {
  return {Value(attempts.ok, {{"outcome", "ok"}}), Value(attempts.failed, {{"outcome", "failed"}})};
}

// One value for each name, in order.
template <size_t n>
Values Each(const char* label, const std::array<const char*, n>& names,
            const std::array<Counter, n>& counters) {
  Values values;
  for (size_t i = 0; i < n; ++i) values.push_back(Value(counters[i], {{label, names[i]}}));
  return values;
}

Values ClosedByReason(const SessionMetrics& sessions) {
  Values values;
  for (size_t i = 0; i < sessions.closed.size(); ++i) {
    const char* const reason = CloseReasonName(static_cast<CloseReason>(i));
    values.push_back(Value(sessions.closed[i], {{"reason", reason}}));
  }
  return values;
}

// Rows cost the same whatever their session asks for; what steps and updates pass through is
// shared.
Values PoolBytes(const Reading& from) {
  const RowBytes& row = from.engine.info().row_bytes;
  const double rows = from.engine.info().rows;
  const double taken = from.rows.rows_active.value() + from.rows.rows_closing.value();
  Values values;
  for (const auto& [name, bytes] : {std::pair("kv", row.kv), std::pair("adapter", row.adapter),
                                    std::pair("optimizer", row.optimizer)}) {
    const double each = static_cast<double>(bytes);
    values.push_back(Value(taken * each, {{"class", name}, {"state", "reserved"}}));
    values.push_back(Value(rows * each, {{"class", name}, {"state", "capacity"}}));
  }
  const MemoryAccount& memory = from.engine.info().memory;
  const uint64_t passing = memory.activation + memory.logits + memory.update;
  values.push_back(
      Value(static_cast<double>(passing), {{"class", "activation"}, {"state", "capacity"}}));
  return values;
}

// Codes that never occurred are left out, but for OK.
Values HandledCalls(const ServerMetrics& server) {
  constexpr std::array<const char*, kRpcMethods> kMethods = {
      "Session",    "GetServerInfo",    "Check", "Watch", "ListSessions",
      "GetSession", "TerminateSession", "Drain"};
  constexpr std::array<const char*, kRpcCodes> kCodes = {
      "OK",       "Canceled",       "Unknown",          "InvalidArgument",   "DeadlineExceeded",
      "NotFound", "AlreadyExists",  "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
      "Aborted",  "OutOfRange",     "Unimplemented",    "Internal",          "Unavailable",
      "DataLoss", "Unauthenticated"};
  Values values;
  for (size_t method = 0; method < kRpcMethods; ++method) {
    for (size_t code = 0; code < kRpcCodes; ++code) {
      const Counter& counter = server.handled[method][code];
      if (code != 0 && counter.value() == 0) continue;
      values.push_back(
          Value(counter, {{"grpc_method", kMethods[method]}, {"grpc_code", kCodes[code]}}));
    }
  }
  return values;
}

// No series without TLS: an alert on a date in the past must not see a 0.
Values TlsExpiry(const SecurityMetrics& security) {
  if (security.tls_expiry.value() == 0) return {};
  return {Value(security.tls_expiry)};
}

// ---- The table -----------------------------------------------------------------------------

constexpr auto kCounter = MetricType::Counter;
constexpr auto kGauge = MetricType::Gauge;
constexpr auto kHistogram = MetricType::Histogram;

#define READ(...) [](const Reading& from) -> Values { return {__VA_ARGS__}; }
#define READ_ALL(values) [](const Reading& from) -> Values { return values; }

std::vector<Metric> Table() {
  return {
      {"mayfly_build_info", kGauge, "Always 1; the labels say what runs.",
       READ(Value(1, {{"version", Version()},
                      {"device", from.engine.info().device},
                      {"model", from.engine.info().model.name}}))},

      // Sessions
      {"mayfly_sessions_active", kGauge, "Streams that have opened and not yet ended.",
       READ(Value(from.sessions.active))},
      {"mayfly_sessions_opened_total", kCounter, "Streams that were given a row.",
       READ(Value(from.sessions.opened))},
      {"mayfly_sessions_closed_total", kCounter, "Streams that ended, by what ended them.",
       READ_ALL(ClosedByReason(from.sessions))},
      {"mayfly_session_duration_seconds", kHistogram, "From a stream's opening to its end.",
       READ(Value(from.sessions.duration_seconds))},
      {"mayfly_admission_rejected_total", kCounter,
       "Streams refused before they had a row: none was free or came free in time, too many "
       "waited, their tenant had its share, or the server was draining.",
       READ(Value(from.sessions.rejected_no_row, {{"reason", "no_row"}}),
            Value(from.sessions.rejected_wait, {{"reason", "wait"}}),
            Value(from.sessions.rejected_queue_full, {{"reason", "queue_full"}}),
            Value(from.sessions.rejected_quota, {{"reason", "quota"}}),
            Value(from.sessions.rejected_draining, {{"reason", "draining"}}))},
      {"mayfly_admission_waiting", kGauge, "Streams that wait for a row.",
       READ(Value(from.sessions.admission_waiting))},
      {"mayfly_admission_wait_seconds", kHistogram,
       "How long streams waited for a row that found none free, whether they got one or not.",
       READ(Value(from.sessions.admission_wait_seconds))},
      {"mayfly_outbox_events", kGauge, "Events that wait for their clients to read them.",
       READ(Value(from.sessions.outbox_events))},

      // Pool
      {"mayfly_slots", kGauge, "Rows of the pool, by state; their sum is constant.",
       READ(Value(from.rows.rows_free, {{"state", "free"}}),
            Value(from.rows.rows_active, {{"state", "active"}}),
            Value(from.rows.rows_closing, {{"state", "closing"}}))},
      {"mayfly_pool_bytes", kGauge,
       "Device memory, by what it holds: reserved by open sessions, and in all. Activation is the "
       "peak of steps and updates, logits and gradients included.",
       READ_ALL(PoolBytes(from))},
      {"mayfly_slot_release_seconds", kHistogram,
       "From a stream's end to its row being zero and free.",
       READ(Value(from.rows.slot_release_seconds))},

      // Requests
      {"mayfly_time_to_first_token_seconds", kHistogram,
       "From a generate command's arrival to its first token, queueing included.",
       READ(Value(from.sessions.time_to_first_token_seconds))},
      {"mayfly_inter_token_latency_seconds", kHistogram,
       "Gaps between the tokens of one generation, by whether an update was in flight: the price "
       "of learning.",
       READ(Value(from.sessions.inter_token_seconds_training, {{"training", "on"}}),
            Value(from.sessions.inter_token_seconds_idle, {{"training", "off"}}))},
      {"mayfly_request_duration_seconds", kHistogram, "From a command's arrival to its last event.",
       READ(Value(from.sessions.append_seconds, {{"command", "append"}}),
            Value(from.sessions.generate_seconds, {{"command", "generate"}}))},
      {"mayfly_queue_duration_seconds", kHistogram, "From a command's arrival to its first step.",
       READ(Value(from.sessions.queue_seconds))},
      {"mayfly_requests_running", kGauge, "Commands that their rows work on.",
       READ(Value(from.sessions.requests_running))},
      {"mayfly_requests_waiting", kGauge, "Commands that wait for those before them.",
       READ(Value(from.sessions.requests_waiting))},
      {"mayfly_requests_refused_total", kCounter,
       "Commands refused in an open stream: their tenant had no tokens left.",
       READ(Value(from.sessions.token_quota_refused, {{"reason", "token_quota"}}))},
      {"mayfly_exports_total", kCounter, "Exports that clients asked for, by outcome.",
       READ_ALL(Attempts(from.sessions.exports))},
      {"mayfly_resumes_total", kCounter,
       "Streams that asked to go on from a snapshot, by whether they do.",
       READ_ALL(Attempts(from.sessions.resumes))},
      {"mayfly_hand_overs_total", kCounter,
       "Sessions left at the end of a drain, by whether they lie in the store for others.",
       READ_ALL(Attempts(from.sessions.hand_overs))},
      {"mayfly_request_finished_total", kCounter, "Generations that ended, by what ended them.",
       READ_ALL(Each<4>("reason", {"stop", "length", "eos", "cancelled"},
                        from.sessions.generations_finished))},
      {"mayfly_tokens_total", kCounter,
       "Tokens appended, tokens generated, and tokens trained on (every epoch counted).",
       READ(Value(from.rows.prompt_tokens, {{"kind", "prompt"}}),
            Value(from.rows.generated_tokens, {{"kind", "generated"}}),
            Value(from.rows.trained_tokens, {{"kind", "trained"}}))},

      // Engine
      {"mayfly_step_duration_seconds", kHistogram, "One step of the engine, by what it did.",
       READ(Value(from.rows.prefill_step_seconds, {{"phase", "prefill"}}),
            Value(from.rows.decode_step_seconds, {{"phase", "decode"}}))},
      {"mayfly_step_batch_size", kHistogram, "Rows that took part in a step.",
       READ(Value(from.rows.step_batch_size))},
      {"mayfly_step_tokens", kHistogram, "Tokens computed by a step.",
       READ(Value(from.rows.step_tokens))},
      {"mayfly_engine_healthy", kGauge,
       "0 once the device has failed for good, and the server leaves.",
       READ(Value(from.engine.healthy() ? 1 : 0))},

      // Adaptation
      {"mayfly_adapter_updates_total", kCounter, "Updates of adapters, by outcome.",
       READ_ALL(Each<4>("outcome", {"applied", "skipped", "rolled_back", "failed"},
                        from.sessions.updates))},
      {"mayfly_adapter_update_duration_seconds", kHistogram, "One update's training time.",
       READ(Value(from.rows.update_seconds))},
      {"mayfly_adapter_update_queue_seconds", kHistogram,
       "From an update falling due to its start.", READ(Value(from.rows.update_queue_seconds))},
      {"mayfly_adapter_update_lag_chunks", kGauge,
       "Complete chunks that are not yet learned, over all sessions.",
       READ(Value(from.sessions.lag_chunks))},
      {"mayfly_adapter_updates_deferred_total", kCounter,
       "Chunks that had to wait before they were learned, as tokens came more slowly than a "
       "session "
       "wanted (target_inter_token_ms).",
       READ(Value(from.sessions.chunks_deferred))},
      {"mayfly_adapter_chunks_skipped_total", kCounter,
       "Chunks given up unlearned, by what stood against it: latency, as they had waited for "
       "longer than their session's window and updates allow.",
       READ(Value(from.sessions.chunks_skipped, {{"reason", "latency"}}))},
      {"mayfly_adapter_nll_gain", kHistogram,
       "How much better an adapter predicts a chunk than the frozen base does, before the chunk is "
       "learned; nats per token, below zero is harm. Measured where a session asks for receipts.",
       READ(Value(from.sessions.nll_gain))},
      {"mayfly_adapter_rollbacks_total", kCounter, "Adapters returned to their last good version.",
       READ(Value(from.sessions.rollbacks))},
      {"mayfly_update_busy_ratio", kGauge,
       "Part of the last minute in which the update worker trained.",
       READ(Value(from.server.update_busy_ratio))},
      {"mayfly_updates_waiting", kGauge, "Updates that wait for the update worker.",
       READ(Value(from.rows.updates_waiting))},

      // Security
      {"mayfly_tls_certificate_expiry_timestamp_seconds", kGauge,
       "When the first certificate of the chain that is served expires, since the Unix epoch.",
       READ_ALL(TlsExpiry(from.security))},
      {"mayfly_tls_reload_failures_total", kCounter,
       "Changed TLS files that could not be used; the old ones stay.",
       READ(Value(from.security.tls_reload_failures))},
      {"mayfly_auth_reload_failures_total", kCounter,
       "Changed token files that could not be used; the old one stays.",
       READ(Value(from.security.auth_reload_failures))},

      // gRPC and the process, under the names that dashboards know
      {"grpc_server_handled_total", kCounter, "Calls that ended, by method and status code.",
       READ_ALL(HandledCalls(from.server))},
      {"process_cpu_seconds_total", kCounter, "User and system time of this process.",
       READ(Value(from.process.cpu_seconds))},
      {"process_resident_memory_bytes", kGauge, "Resident memory of this process.",
       READ(Value(static_cast<double>(from.process.resident_bytes)))},
      {"process_virtual_memory_bytes", kGauge, "Virtual memory of this process.",
       READ(Value(static_cast<double>(from.process.virtual_bytes)))},
      {"process_open_fds", kGauge, "Open file descriptors.",
       READ(Value(static_cast<double>(from.process.open_fds)))},
      {"process_max_fds", kGauge, "Most file descriptors this process may open.",
       READ(Value(static_cast<double>(from.process.max_fds)))},
      {"process_start_time_seconds", kGauge, "When this process started, since the Unix epoch.",
       READ(Value(from.process.start_time_seconds))},
  };
}

#undef READ_ALL
#undef READ

}  // namespace

std::vector<prometheus::MetricFamily> MetricsTable::Collect() const {
  const Reading reading{*sources_.engine,           *sources_.engine_metrics,
                        *sources_.session_metrics,  *sources_.server_metrics,
                        *sources_.security_metrics, ReadProcessStats()};
  std::vector<prometheus::MetricFamily> families;
  for (const Metric& metric : Table()) {
    families.push_back({metric.name, metric.help, metric.type, metric.read(reading)});
  }
  return families;
}

}  // namespace mayfly
