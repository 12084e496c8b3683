#include "server/metrics_server.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "prometheus/metric_family.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tcp.h"

namespace mayfly {
namespace {

using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;

class OneMetric final : public prometheus::Collectable {
 public:
  std::vector<prometheus::MetricFamily> Collect() const override {
    prometheus::ClientMetric value;
    value.gauge.value = 7;
    return {{"answers", "What is counted.", prometheus::MetricType::Gauge, {value}}};
  }
};

// One server for all: civetweb takes two seconds to stop.
TEST(MetricsServerTest, AnswersScrapesAndProbesAndNothingElse) {
  const OneMetric metrics;
  HealthBoard board;
  const auto server = MetricsServer::Start("127.0.0.1:0", &metrics, &board);
  ASSERT_THAT(server, IsOk());
  const std::string address = (*server)->address();
  EXPECT_THAT(address, Not(EndsWith(":0")));

  const HttpAnswer scrape = HttpGet(address, "/metrics");
  EXPECT_EQ(scrape.status, 200);
  EXPECT_THAT(scrape.headers, HasSubstr("text/plain; version=0.0.4"));
  EXPECT_EQ(scrape.body, "# HELP answers What is counted.\n# TYPE answers gauge\nanswers 7\n");
  EXPECT_EQ(HttpRequest(address, "HEAD", "/metrics").status, 200);
  EXPECT_EQ(HttpRequest(address, "HEAD", "/metrics").body, "");

  EXPECT_EQ(HttpGet(address, "/healthz").status, 200);
  EXPECT_EQ(HttpGet(address, "/readyz").status, 503);
  board.SetReady(true);
  EXPECT_EQ(HttpGet(address, "/readyz").status, 200);
  board.SetAlive(false);
  EXPECT_EQ(HttpGet(address, "/healthz").status, 503);

  EXPECT_EQ(HttpGet(address, "/").status, 404);
  EXPECT_EQ(HttpGet(address, "/metrics/more").status, 404);
  EXPECT_EQ(HttpRequest(address, "POST", "/metrics").status, 405);

  EXPECT_THAT(MetricsServer::Start(address, &metrics, &board),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("cannot listen on " + address)));
}

}  // namespace
}  // namespace mayfly
