#include "server/metrics_table.h"

#include <set>
#include <sstream>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "prometheus/text_serializer.h"
#include "tests/support/fake_engine.h"

namespace mayfly {
namespace {

using prometheus::MetricFamily;
using testing::HasSubstr;
using testing::Not;
using testing::UnorderedElementsAre;

class MetricsTableTest : public testing::Test {
 protected:
  std::string Text() const {
    std::ostringstream text;
    prometheus::TextSerializer().Serialize(text, table_.Collect());
    return text.str();
  }

  FakeEngine engine_;
  EngineMetrics engine_metrics_;
  SessionMetrics session_metrics_;
  ServerMetrics server_metrics_;
  SecurityMetrics security_metrics_;
  const MetricsTable table_{
      {&engine_, &engine_metrics_, &session_metrics_, &server_metrics_, &security_metrics_}};
};

TEST_F(MetricsTableTest, ACertificatesExpiryIsShownOnceThereIsOne) {
  EXPECT_THAT(Text(), Not(HasSubstr("\nmayfly_tls_certificate_expiry_timestamp_seconds ")));
  security_metrics_.tls_expiry.Set(4e9);
  EXPECT_THAT(Text(), HasSubstr("\nmayfly_tls_certificate_expiry_timestamp_seconds 4000000000\n"));
}

TEST_F(MetricsTableTest, NamesAreThoseOfTheContract) {
  std::set<std::string> names;
  for (const MetricFamily& family : table_.Collect()) {
    EXPECT_TRUE(names.insert(family.name).second) << family.name << " twice";
    EXPECT_FALSE(family.help.empty()) << family.name;
  }
  EXPECT_THAT(
      names,
      UnorderedElementsAre(
          "mayfly_build_info", "mayfly_sessions_active", "mayfly_sessions_opened_total",
          "mayfly_sessions_closed_total", "mayfly_session_duration_seconds",
          "mayfly_admission_rejected_total", "mayfly_admission_waiting",
          "mayfly_admission_wait_seconds", "mayfly_outbox_events", "mayfly_requests_refused_total",
          "mayfly_exports_total", "mayfly_resumes_total", "mayfly_hand_overs_total", "mayfly_slots",
          "mayfly_pool_bytes", "mayfly_slot_release_seconds", "mayfly_time_to_first_token_seconds",
          "mayfly_inter_token_latency_seconds", "mayfly_request_duration_seconds",
          "mayfly_queue_duration_seconds", "mayfly_requests_running", "mayfly_requests_waiting",
          "mayfly_request_finished_total", "mayfly_tokens_total", "mayfly_step_duration_seconds",
          "mayfly_step_batch_size", "mayfly_step_tokens", "mayfly_engine_healthy",
          "mayfly_adapter_updates_total", "mayfly_adapter_update_duration_seconds",
          "mayfly_adapter_update_queue_seconds", "mayfly_adapter_update_lag_chunks",
          "mayfly_adapter_updates_deferred_total", "mayfly_adapter_chunks_skipped_total",
          "mayfly_adapter_nll_gain", "mayfly_adapter_rollbacks_total", "mayfly_update_busy_ratio",
          "mayfly_updates_waiting", "mayfly_tls_certificate_expiry_timestamp_seconds",
          "mayfly_tls_reload_failures_total", "mayfly_auth_reload_failures_total",
          "grpc_server_handled_total", "process_cpu_seconds_total", "process_resident_memory_bytes",
          "process_virtual_memory_bytes", "process_open_fds", "process_max_fds",
          "process_start_time_seconds"));
}

TEST_F(MetricsTableTest, CountersAndOnlyCountersEndInTotal) {
  for (const MetricFamily& family : table_.Collect()) {
    const bool total = family.name.ends_with("_total");
    EXPECT_EQ(total, family.type == prometheus::MetricType::Counter) << family.name;
  }
}

TEST_F(MetricsTableTest, ValuesAreReadWhenTheyAreCollected) {
  session_metrics_.opened.Increment(3);
  session_metrics_.active.Set(2);
  session_metrics_.closed[static_cast<size_t>(CloseReason::kDeadline)].Increment();
  session_metrics_.updates[static_cast<size_t>(UpdateOutcome::kRolledBack)].Increment(4);
  engine_metrics_.trained_tokens.Increment(5);
  session_metrics_.chunks_deferred.Increment(6);
  session_metrics_.chunks_skipped.Increment(7);
  const std::string text = Text();
  EXPECT_THAT(text, HasSubstr("\nmayfly_sessions_opened_total 3\n"));
  EXPECT_THAT(text, HasSubstr("\nmayfly_sessions_active 2\n"));
  EXPECT_THAT(text, HasSubstr("\nmayfly_adapter_updates_total{outcome=\"rolled_back\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("\nmayfly_adapter_updates_deferred_total 6\n"));
  EXPECT_THAT(text, HasSubstr("\nmayfly_adapter_chunks_skipped_total{reason=\"latency\"} 7\n"));
  EXPECT_THAT(text, HasSubstr("\nmayfly_tokens_total{kind=\"trained\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("mayfly_sessions_closed_total{reason=\"" +
                              std::string(CloseReasonName(CloseReason::kDeadline)) + "\"} 1\n"));
}

TEST_F(MetricsTableTest, BucketsOfAHistogramAreCumulative) {
  engine_metrics_.step_batch_size.Observe(1);
  engine_metrics_.step_batch_size.Observe(2);
  engine_metrics_.step_batch_size.Observe(1000);
  const std::string text = Text();
  EXPECT_THAT(text, HasSubstr("\nmayfly_step_batch_size_bucket{le=\"1\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("\nmayfly_step_batch_size_bucket{le=\"256\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("\nmayfly_step_batch_size_bucket{le=\"+Inf\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("\nmayfly_step_batch_size_sum 1003\n"));
}

TEST_F(MetricsTableTest, PoolBytesFollowTheRows) {
  engine_metrics_.rows_active.Set(1);
  const std::string text = Text();
  EXPECT_THAT(text, HasSubstr("mayfly_pool_bytes{class=\"kv\",state=\"reserved\"} 100\n"));
  EXPECT_THAT(text, HasSubstr("mayfly_pool_bytes{class=\"kv\",state=\"capacity\"} 200\n"));
  EXPECT_THAT(text, HasSubstr("mayfly_pool_bytes{class=\"activation\",state=\"capacity\"} 18\n"));
}

TEST_F(MetricsTableTest, OnlyCodesThatOccurredAreShown) {
  server_metrics_.CountHandled(RpcMethod::kSession,
                               grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, ""));
  const std::string text = Text();
  EXPECT_THAT(text, HasSubstr("{grpc_method=\"Session\",grpc_code=\"ResourceExhausted\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("{grpc_method=\"Session\",grpc_code=\"OK\"} 0\n"));
  EXPECT_THAT(text, Not(HasSubstr("grpc_code=\"DataLoss\"")));
}

TEST_F(MetricsTableTest, TheProcessIsMeasured) {
  for (const MetricFamily& family : table_.Collect()) {
    if (family.name == "process_resident_memory_bytes" || family.name == "process_open_fds" ||
        family.name == "process_start_time_seconds") {
      EXPECT_GT(family.metric.at(0).gauge.value, 0) << family.name;
    }
  }
}

}  // namespace
}  // namespace mayfly
