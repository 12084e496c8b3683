// However a stream ends, its row is free again, the client is told what was freed where it can
// still be told, and the end is counted under its reason. The real server, a fake engine behind it.

#include <sys/socket.h>

#include <functional>
#include <memory>
#include <ostream>
#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "grpcpp/create_channel_posix.h"
#include "gtest/gtest.h"
#include "mayfly/v1/admin_service.grpc.pb.h"
#include "tests/support/eventually.h"
#include "tests/support/in_process_server.h"
#include "tests/support/tcp.h"

namespace mayfly {
namespace {

using Event = v1::SessionResponse;

constexpr char kEndlessGenerate[] =
    "request_id: 3 generate { max_tokens: 1000000 ignore_eos: true }";
constexpr double kDeadlineSeconds = 0.5;
// Longer than it takes to find out that a reader is too slow.
constexpr double kIdleSeconds = 1e6;
constexpr double kOldestSeconds = 1e9;

Config LimitedConfig() {
  Config config = InProcessServer::DefaultConfig();
  config.sessions.limits.idle_timeout_seconds = kIdleSeconds;
  config.sessions.limits.max_session_age_seconds = kOldestSeconds;
  config.sessions.limits.slow_reader_timeout_seconds = 30;
  config.sessions.limits.outbox_events = 8;
  return config;
}

// What a way to end works on.
struct Scene {
  InProcessServer& server;
  TestStream& stream;
  const TcpConnection& connection;

  void Generate() {
    stream.Send("request_id: 2 append { text: 'hello' }");
    stream.Send(kEndlessGenerate);
    EXPECT_TRUE(stream.Next(Event::kDelta).has_value());
  }
  // Generates into a client that has stopped reading, until its outbox is full. The transport may
  // go on to take some events for a while.
  void Stall() {
    Generate();
    const Gauge& waiting = server.server().session_metrics().outbox_events;
    EXPECT_TRUE(Eventually([&] { return waiting.value() >= 8; }));
  }
  void Terminate() {
    const auto stub = v1::AdminService::NewStub(server.Connect());
    grpc::ClientContext listing, ending;
    v1::ListSessionsResponse open;
    EXPECT_TRUE(stub->ListSessions(&listing, {}, &open).ok());
    ASSERT_EQ(open.sessions_size(), 1);
    v1::TerminateSessionRequest request;
    request.set_session_id(open.sessions(0).session_id());
    v1::TerminateSessionResponse response;
    EXPECT_TRUE(stub->TerminateSession(&ending, request, &response).ok());
  }
  void Pass(double seconds) {
    server.clock().Advance(seconds);
    server.server().Tick();
  }
};

struct WayToEnd {
  std::string name;
  std::function<void(Scene)> end;
  CloseReason reason;
  // What the client is told; OK for an end of its own choice.
  grpc::StatusCode code;
  // It is still there, and listens to the end.
  bool listens = true;
};

const WayToEnd kWays[] = {
    {"Close", [](Scene scene) { scene.stream.Send("request_id: 9 close {}"); },
     CloseReason::kClosed, grpc::StatusCode::OK},
    {"CloseWhileGenerating",
     [](Scene scene) {
       scene.Generate();
       scene.stream.Send("request_id: 9 close {}");
     },
     CloseReason::kClosed, grpc::StatusCode::OK},
    {"HalfClose", [](Scene scene) { scene.stream.HalfClose(); }, CloseReason::kHalfClosed,
     grpc::StatusCode::OK},
    {"Idle", [](Scene scene) { scene.Pass(kIdleSeconds + 1); }, CloseReason::kIdle,
     grpc::StatusCode::ABORTED},
    {"Age",
     [](Scene scene) {
       scene.Generate();
       scene.Pass(kOldestSeconds + 1);
     },
     CloseReason::kAge, grpc::StatusCode::ABORTED},
    {"EndOfADrain",
     [](Scene scene) {
       scene.Generate();
       scene.server.server().StartDrain(0);
       scene.server.server().EndSessions();
     },
     CloseReason::kDrained, grpc::StatusCode::UNAVAILABLE},
    {"Operator",
     [](Scene scene) {
       scene.Generate();
       scene.Terminate();
     },
     CloseReason::kTerminated, grpc::StatusCode::ABORTED},
    {"SlowReader",
     [](Scene scene) {
       scene.Stall();
       // From the moment at which the transport is full, nothing is taken between two looks.
       EXPECT_TRUE(Eventually([&] {
         scene.Pass(31);
         return scene.server.engine().free_rows() == 2;
       })) << "and the client has not read again";
     },
     CloseReason::kSlowReader, grpc::StatusCode::RESOURCE_EXHAUSTED},
    {"Cancel", [](Scene scene) { scene.stream.Cancel(); }, CloseReason::kCancelled,
     grpc::StatusCode::CANCELLED, false},
    {"CancelWhileGenerating",
     [](Scene scene) {
       scene.Generate();
       scene.stream.Cancel();
     },
     CloseReason::kCancelled, grpc::StatusCode::CANCELLED, false},
    {"CancelWhileStalled",
     [](Scene scene) {
       scene.Stall();
       scene.stream.Cancel();
     },
     CloseReason::kCancelled, grpc::StatusCode::CANCELLED, false},
    {"Deadline", [](Scene) {}, CloseReason::kDeadline, grpc::StatusCode::DEADLINE_EXCEEDED, false},
    {"Disconnect", [](Scene scene) { shutdown(scene.connection.fd(), SHUT_RDWR); },
     CloseReason::kCancelled, grpc::StatusCode::UNAVAILABLE, false},
    {"FailedWrite",
     [](Scene scene) {
       scene.Stall();
       shutdown(scene.connection.fd(), SHUT_RDWR);
     },
     CloseReason::kCancelled, grpc::StatusCode::UNAVAILABLE, false},
};

void PrintTo(const WayToEnd& way, std::ostream* out) { *out << way.name; }

class ReleaseTest : public testing::TestWithParam<WayToEnd> {
 protected:
  ReleaseTest()
      : server_(LimitedConfig()),
        connection_(server_.server().address()),
        // The channel closes its descriptor; ours lets us pull the plug.
        channel_(grpc::CreateInsecureChannelFromFd("ending", dup(connection_.fd()))) {}

  InProcessServer server_;
  const TcpConnection connection_;
  const std::shared_ptr<grpc::Channel> channel_;
};

TEST_P(ReleaseTest, TheRowIsFreeAndTheEndIsToldAndCounted) {
  const WayToEnd& way = GetParam();
  TestStream stream(channel_, way.reason == CloseReason::kDeadline
                                  ? std::optional<double>(kDeadlineSeconds)
                                  : std::nullopt);
  ASSERT_TRUE(stream.Open());
  EXPECT_EQ(server_.engine().free_rows(), 1);
  way.end({server_, stream, connection_});

  const uint64_t row_bytes = server_.engine().info().row_bytes.total();
  const std::optional<Event> closed = stream.Next(Event::kClosed);
  const grpc::Status status = stream.Finish();
  EXPECT_EQ(status.error_code(), way.code) << status.error_message();
  if (way.listens) {
    ASSERT_TRUE(closed.has_value());
    EXPECT_EQ(closed->closed().freed_bytes(), row_bytes);
    EXPECT_EQ(closed->closed().reason(), CloseReasonName(way.reason));
    const auto& trailers = stream.context().GetServerTrailingMetadata();
    const auto freed = trailers.find("mayfly-freed-bytes");
    ASSERT_NE(freed, trailers.end());
    EXPECT_EQ(freed->second, std::to_string(row_bytes));
  }

  EXPECT_TRUE(server_.AllRowsFree());
  EXPECT_TRUE(server_.HasClosed(way.reason, 1));
  const SessionMetrics& metrics = server_.server().session_metrics();
  EXPECT_TRUE(Eventually([&] { return metrics.active.value() == 0; }));
  EXPECT_TRUE(Eventually([&] { return metrics.outbox_events.value() == 0; }));
  uint64_t ends = 0;
  for (const Counter& counter : metrics.closed) ends += counter.value();
  EXPECT_EQ(ends, 1u) << "a stream ends once";
}

INSTANTIATE_TEST_SUITE_P(Ways, ReleaseTest, testing::ValuesIn(kWays),
                         [](const auto& tested) { return tested.param.name; });

// ---- A client that sends and does not listen ------------------------------------------------

TEST(FloodTest, AClientThatIsNotListeningIsNotHeardEither) {
  InProcessServer server(LimitedConfig());
  TestStream stream(server.Connect());
  ASSERT_TRUE(stream.Open());
  // Every command is answered with an error that nobody reads, until the transport takes no more.
  std::thread flood([&] {
    while (stream.Send("request_id: 5 cancel { request_id: 6 }")) {
    }
  });
  const Gauge& waiting = server.server().session_metrics().outbox_events;
  EXPECT_TRUE(Eventually([&] { return waiting.value() >= 8; }));
  // The transport's own buffers take some more; the outbox takes what was read by then.
  for (int look = 0; look < 10'000; ++look) {
    EXPECT_LE(waiting.value(), 8 + 1);
    std::this_thread::yield();
  }
  stream.Cancel();
  flood.join();
  EXPECT_TRUE(server.AllRowsFree());
}

}  // namespace
}  // namespace mayfly
