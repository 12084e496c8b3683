// The server as its clients meet it: real gRPC over the loopback, a fake engine behind it. Every
// test ends with all rows free.

#include "server/server.h"

#include <sys/socket.h>

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/create_channel_posix.h"
#include "gtest/gtest.h"
#include "server/grpc_status.h"
#include "tests/support/eventually.h"
#include "tests/support/in_process_server.h"
#include "tests/support/status_matchers.h"
#include "tests/support/tcp.h"

namespace mayfly {
namespace {

using Event = v1::SessionResponse;
using ::grpc::health::v1::HealthCheckRequest;
using ::grpc::health::v1::HealthCheckResponse;
using testing::HasSubstr;

// Long enough that nothing but a command or the end of the stream stops it.
constexpr char kEndlessGenerate[] =
    "request_id: 3 generate { max_tokens: 1000000 ignore_eos: true }";

class ServerTest : public testing::Test {
 protected:
  ~ServerTest() override { EXPECT_TRUE(fixture_.AllRowsFree()); }

  HealthCheckResponse::ServingStatus Health(const std::string& address,
                                            const std::string& service) {
    const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
    grpc::ClientContext context;
    HealthCheckRequest request;
    request.set_service(service);
    HealthCheckResponse response;
    const auto stub = ::grpc::health::v1::Health::NewStub(channel);
    EXPECT_TRUE(stub->Check(&context, request, &response).ok());
    return response.status();
  }

  // Does the error say when to try again?
  static bool HasRetryInfo(const grpc::Status& status) {
    google::rpc::Status rich;
    return rich.ParseFromString(status.error_details()) && rich.details_size() == 1 &&
           rich.details(0).Is<google::rpc::RetryInfo>();
  }

  InProcessServer fixture_;
};

// ---- A stream's life -----------------------------------------------------------------------

TEST_F(ServerTest, OpenReportsEffectiveOptionsAndTakesARow) {
  TestStream stream(fixture_.Connect());
  ASSERT_TRUE(
      stream.Send("request_id: 7 open { adaptation { rank: 4 } window_tokens: 48 seed: 5 }"));
  const auto response = stream.Next();
  ASSERT_TRUE(response.has_value());
  EXPECT_EQ(response->request_id(), 7u);
  const v1::Opened& opened = response->opened();
  EXPECT_EQ(opened.model(), "fake");
  EXPECT_EQ(opened.adaptation().rank(), 4u);
  EXPECT_EQ(opened.adaptation().chunk_tokens(), 16u);
  EXPECT_EQ(opened.window_tokens(), 48u);
  EXPECT_EQ(opened.seed(), 5u);
  EXPECT_GT(opened.reserved_bytes().kv(), 0u);
  EXPECT_EQ(fixture_.engine().free_rows(), fixture_.engine().info().rows - 1);
}

TEST_F(ServerTest, AppendedTextIsScoredAndGenerationFollows) {
  TestStream stream(fixture_.Connect());
  ASSERT_TRUE(stream.Open());
  stream.Send("request_id: 2 append { text: 'hello' score: true }");
  const auto appended = stream.Next(Event::kAppended);
  ASSERT_TRUE(appended.has_value());
  EXPECT_EQ(appended->request_id(), 2u);
  EXPECT_EQ(appended->appended().tokens(), 5u);
  EXPECT_EQ(appended->appended().scored_tokens(), 4u);
  EXPECT_DOUBLE_EQ(appended->appended().nll(), 4.0);

  stream.Send("request_id: 3 generate { max_tokens: 3 }");
  std::string text;
  std::optional<Event> response;
  while ((response = stream.Next()) && response->has_delta()) {
    EXPECT_EQ(response->request_id(), 3u);
    text += response->delta().text();
  }
  ASSERT_TRUE(response.has_value());
  EXPECT_EQ(text, "fgh");
  EXPECT_EQ(response->generated().finish_reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(response->generated().usage().generated_tokens(), 3u);
}

TEST_F(ServerTest, AFullChunkIsLearnedAndReported) {
  TestStream stream(fixture_.Connect());
  ASSERT_TRUE(stream.Open());
  stream.Send("request_id: 2 append { text: 'sixteen letters!' }");
  const auto update = stream.Next(Event::kUpdate);
  ASSERT_TRUE(update.has_value());
  EXPECT_EQ(update->update().outcome(), v1::UPDATE_OUTCOME_APPLIED);
  EXPECT_EQ(update->update().adapter_version(), 1u);
}

TEST_F(ServerTest, CloseEndsWithAReckoningAndFreesTheRow) {
  TestStream stream(fixture_.Connect());
  ASSERT_TRUE(stream.Open());
  stream.Send("request_id: 2 append { text: 'hello' }");
  stream.Send("request_id: 3 close {}");
  const auto closed = stream.Next(Event::kClosed);
  ASSERT_TRUE(closed.has_value());
  EXPECT_EQ(closed->closed().freed_bytes(), fixture_.engine().info().row_bytes.total());
  EXPECT_TRUE(stream.Finish().ok());
  const auto& trailers = stream.context().GetServerTrailingMetadata();
  const auto freed = trailers.find("mayfly-freed-bytes");
  ASSERT_NE(freed, trailers.end());
  EXPECT_EQ(freed->second, std::to_string(closed->closed().freed_bytes()));
  EXPECT_TRUE(fixture_.HasClosed(CloseReason::kClosed, 1));
}

TEST_F(ServerTest, HalfCloseFinishesWhatWasAskedFirst) {
  TestStream stream(fixture_.Connect());
  ASSERT_TRUE(stream.Open());
  stream.Send("request_id: 2 append { text: 'hello' }");
  stream.Send("request_id: 3 generate { max_tokens: 4 }");
  stream.HalfClose();
  const auto generated = stream.Next(Event::kGenerated);
  ASSERT_TRUE(generated.has_value());
  EXPECT_EQ(generated->generated().usage().generated_tokens(), 4u);
  EXPECT_TRUE(stream.Next(Event::kClosed).has_value());
  EXPECT_TRUE(stream.Finish().ok());
  EXPECT_TRUE(fixture_.HasClosed(CloseReason::kHalfClosed, 1));
}

TEST_F(ServerTest, CancelEndsItsTargetAndTheSessionLives) {
  TestStream stream(fixture_.Connect());
  ASSERT_TRUE(stream.Open());
  stream.Send("request_id: 2 append { text: 'hello' }");
  stream.Send(kEndlessGenerate);
  ASSERT_TRUE(stream.Next(Event::kDelta).has_value());
  stream.Send("request_id: 4 cancel { request_id: 3 }");
  const auto generated = stream.Next(Event::kGenerated);
  ASSERT_TRUE(generated.has_value());
  EXPECT_EQ(generated->request_id(), 3u);
  EXPECT_EQ(generated->generated().finish_reason(), v1::FINISH_REASON_CANCELLED);

  stream.Send("request_id: 5 generate { max_tokens: 2 }");
  const auto again = stream.Next(Event::kGenerated);
  ASSERT_TRUE(again.has_value());
  EXPECT_EQ(again->generated().finish_reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(ServerTest, SessionsHaveRowsOfTheirOwn) {
  const auto channel = fixture_.Connect();
  TestStream one(channel);
  TestStream two(channel);
  ASSERT_TRUE(one.Open());
  ASSERT_TRUE(two.Open());
  EXPECT_EQ(fixture_.engine().free_rows(), 0);
}

// ---- The ends a client does not announce ---------------------------------------------------

TEST_F(ServerTest, ACancelledCallFreesItsRow) {
  // Many times: the end of the client's messages must never be taken for its goodbye.
  constexpr int kCalls = 50;
  const auto channel = fixture_.Connect();
  for (int i = 0; i < kCalls; ++i) {
    TestStream stream(channel);
    ASSERT_TRUE(stream.Open());
    stream.Cancel();
    EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::CANCELLED);
    ASSERT_TRUE(fixture_.AllRowsFree());
  }
  EXPECT_TRUE(fixture_.HasClosed(CloseReason::kCancelled, kCalls));
}

TEST_F(ServerTest, ACallCancelledInTheMiddleOfAGenerationFreesItsRow) {
  TestStream stream(fixture_.Connect());
  ASSERT_TRUE(stream.Open());
  stream.Send("request_id: 2 append { text: 'hello' }");
  stream.Send(kEndlessGenerate);
  ASSERT_TRUE(stream.Next(Event::kDelta).has_value());
  stream.Cancel();
  EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(fixture_.HasClosed(CloseReason::kCancelled, 1));
}

TEST_F(ServerTest, ADeadlineFreesTheRow) {
  TestStream stream(fixture_.Connect(), /*deadline_seconds=*/0.5);
  ASSERT_TRUE(stream.Open());
  EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(fixture_.HasClosed(CloseReason::kDeadline, 1));
}

TEST_F(ServerTest, AVanishedClientFreesItsRow) {
  const TcpConnection connection(fixture_.server().address());
  ASSERT_GE(connection.fd(), 0);
  // The channel closes its descriptor; ours lets us pull the plug.
  const auto channel = grpc::CreateInsecureChannelFromFd("vanishing", dup(connection.fd()));
  TestStream stream(channel);
  ASSERT_TRUE(stream.Open());
  shutdown(connection.fd(), SHUT_RDWR);
  EXPECT_FALSE(stream.Finish().ok());
  EXPECT_TRUE(fixture_.AllRowsFree());
  EXPECT_TRUE(fixture_.HasClosed(CloseReason::kCancelled, 1));
}

TEST_F(ServerTest, AClientThatReadsNothingFreesItsRowWhenItLeaves) {
  {
    TestStream stream(fixture_.Connect());
    ASSERT_TRUE(stream.Open());
    stream.Send("request_id: 2 append { text: 'hello' }");
    stream.Send(kEndlessGenerate);
  }
  EXPECT_TRUE(fixture_.HasClosed(CloseReason::kCancelled, 1));
}

// ---- What is refused -----------------------------------------------------------------------

TEST_F(ServerTest, TheFirstCommandMustBeAnOpen) {
  for (const char* first : {"request_id: 1", "request_id: 1 append { text: 'x' }",
                            "request_id: 1 open { adaptation { rank: 0 } }"}) {
    TestStream stream(fixture_.Connect());
    stream.Send(first);
    EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::INVALID_ARGUMENT) << first;
  }
  EXPECT_TRUE(fixture_.HasClosed(CloseReason::kInvalid, 3));
}

TEST_F(ServerTest, AnUnknownEnumInOpenIsRefusedByName) {
  TestStream stream(fixture_.Connect());
  v1::SessionRequest request;
  request.mutable_open()->mutable_adaptation()->set_preset(static_cast<v1::Preset>(9));
  stream.Send(request);
  const grpc::Status status = stream.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("preset is 9"));
}

TEST_F(ServerTest, ASecondOpenIsAnErrorAndTheSessionLives) {
  TestStream stream(fixture_.Connect());
  ASSERT_TRUE(stream.Open());
  stream.Send("request_id: 2 open {}");
  const auto error = stream.Next(Event::kError);
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->request_id(), 2u);
  stream.Send("request_id: 3 append { text: 'still here' }");
  EXPECT_TRUE(stream.Next(Event::kAppended).has_value());
}

TEST_F(ServerTest, InvalidUtf8IsAnErrorAndTheSessionLives) {
  TestStream stream(fixture_.Connect());
  ASSERT_TRUE(stream.Open());
  v1::SessionRequest request;
  request.set_request_id(2);
  request.mutable_append()->set_text("\xff\xfe");
  stream.Send(request);
  const auto error = stream.Next(Event::kError);
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->request_id(), 2u);
  EXPECT_EQ(error->error().code(), static_cast<uint32_t>(grpc::StatusCode::INVALID_ARGUMENT));
  EXPECT_THAT(error->error().message(), HasSubstr("UTF-8"));
  stream.Send("request_id: 3 append { text: 'still here' }");
  EXPECT_TRUE(stream.Next(Event::kAppended).has_value());
}

TEST_F(ServerTest, AMessageAboveTheLimitEndsTheStreamAndFreesTheRow) {
  TestStream stream(fixture_.Connect());
  ASSERT_TRUE(stream.Open());
  v1::SessionRequest request;
  request.mutable_append()->set_text(std::string(2 << 20, 'x'));
  stream.Send(request);
  EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
}

TEST_F(ServerTest, WithoutARowTheClientIsToldWhenToRetry) {
  const auto channel = fixture_.Connect();
  TestStream one(channel);
  TestStream two(channel);
  TestStream three(channel);
  ASSERT_TRUE(one.Open());
  ASSERT_TRUE(two.Open());
  EXPECT_FALSE(three.Open());
  const grpc::Status status = three.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_TRUE(HasRetryInfo(status));
}

TEST(ServerLimitsTest, AnOpenWaitsForARowAndTheLateOneIsToldSo) {
  Config config = InProcessServer::DefaultConfig();
  config.sessions.limits.admission_wait_seconds = 5;
  InProcessServer fixture(config);
  const auto channel = fixture.Connect();
  TestStream one(channel), two(channel), first(channel), second(channel);
  ASSERT_TRUE(one.Open());
  ASSERT_TRUE(two.Open());
  const Gauge& waiting = fixture.server().session_metrics().admission_waiting;
  first.Send("request_id: 1 open {}");
  ASSERT_TRUE(Eventually([&] { return waiting.value() == 1; }));
  second.Send("request_id: 1 open {}");
  ASSERT_TRUE(Eventually([&] { return waiting.value() == 2; }));
  one.HalfClose();
  EXPECT_TRUE(first.Next(Event::kOpened).has_value());
  EXPECT_LE(fixture.server().tick_seconds(), 1);
  fixture.clock().Advance(5);
  fixture.server().Tick();
  const grpc::Status late = second.Finish();
  EXPECT_EQ(late.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_THAT(late.error_message(), HasSubstr("admission_wait, 5 seconds"));
}

TEST(ServerLimitsTest, ATenantWithoutTokensIsToldWhenItHasSomeAgain) {
  Config config = InProcessServer::DefaultConfig();
  config.sessions.limits.max_tokens_per_minute_per_tenant = 60;
  InProcessServer fixture(config);
  TestStream stream(fixture.Connect());
  ASSERT_TRUE(stream.Open());
  stream.Send("request_id: 2 append { text: '" + std::string(69, 'x') + "' }");
  ASSERT_TRUE(stream.Next(Event::kAppended).has_value());
  stream.Send("request_id: 3 generate { max_tokens: 1 }");
  const auto error = stream.Next(Event::kError);
  ASSERT_TRUE(error.has_value());
  EXPECT_EQ(error->error().code(), static_cast<uint32_t>(grpc::StatusCode::RESOURCE_EXHAUSTED));
  EXPECT_EQ(error->error().retry_after_seconds(), 10);
  fixture.clock().Advance(10);
  stream.Send("request_id: 4 generate { max_tokens: 1 }");
  EXPECT_TRUE(stream.Next(Event::kGenerated).has_value());
}

// ---- Information ---------------------------------------------------------------------------

TEST_F(ServerTest, ServerInfoNamesModelLimitsDefaultsAndRows) {
  const auto stub = v1::InferenceService::NewStub(fixture_.Connect());
  grpc::ClientContext context;
  v1::GetServerInfoResponse info;
  ASSERT_TRUE(stub->GetServerInfo(&context, {}, &info).ok());
  EXPECT_FALSE(info.version().empty());
  EXPECT_EQ(info.model().name(), "fake");
  EXPECT_EQ(info.limits().max_message_bytes(), 1u << 20);
  EXPECT_EQ(info.limits().max_generate_tokens(), 1'000'000u);
  EXPECT_EQ(info.default_adaptation().chunk_tokens(), 16u);
  EXPECT_EQ(info.default_adaptation().preset(), v1::PRESET_BALANCED);
  EXPECT_EQ(info.rows_total(), 2u);
  EXPECT_EQ(info.rows_free(), 2u);
  EXPECT_EQ(info.row_bytes().kv(), fixture_.engine().info().row_bytes.kv);
  EXPECT_THAT(info.memory().ShortDebugString(),
              "process: 1 weights: 2 rows: 300 base_row: 4 activation: 5 logits: 6 update: 7");
}

TEST_F(ServerTest, HealthIsServedOnBothListeners) {
  for (const std::string& address :
       {fixture_.server().address(), fixture_.server().health_address()}) {
    for (const char* service : {"", "mayfly.v1.InferenceService", "readiness", "liveness"}) {
      EXPECT_EQ(Health(address, service), HealthCheckResponse::SERVING) << address << service;
    }
  }
}

TEST_F(ServerTest, AnUnknownServiceHasNoHealth) {
  const auto stub = ::grpc::health::v1::Health::NewStub(fixture_.Connect());
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service("no.such.Service");
  HealthCheckResponse response;
  EXPECT_EQ(stub->Check(&context, request, &response).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ServerTest, AHealthWatchHearsOfTheDrain) {
  const auto stub = ::grpc::health::v1::Health::NewStub(fixture_.Connect());
  grpc::ClientContext context;
  HealthCheckRequest request;
  request.set_service("readiness");
  const auto watch = stub->Watch(&context, request);
  HealthCheckResponse response;
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::SERVING);
  fixture_.server().StartDrain(10);
  ASSERT_TRUE(watch->Read(&response));
  EXPECT_EQ(response.status(), HealthCheckResponse::NOT_SERVING);
  context.TryCancel();
  EXPECT_EQ(watch->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(ServerTest, EndedCallsAreCountedByMethodAndCode) {
  {
    TestStream stream(fixture_.Connect());
    ASSERT_TRUE(stream.Open());
    stream.HalfClose();
    EXPECT_TRUE(stream.Finish().ok());
  }
  const auto& codes =
      fixture_.server().server_metrics().handled[static_cast<size_t>(RpcMethod::kSession)];
  EXPECT_EQ(codes[grpc::StatusCode::OK].value(), 1u);
  EXPECT_EQ(codes[grpc::StatusCode::CANCELLED].value(), 0u);
}

// ---- The end of the server -----------------------------------------------------------------

TEST_F(ServerTest, ADrainTellsOpenStreamsAndRefusesNewOnes) {
  TestStream stream(fixture_.Connect());
  ASSERT_TRUE(stream.Open());
  fixture_.server().StartDrain(10);
  EXPECT_TRUE(stream.Next(Event::kDraining).has_value());
  EXPECT_FALSE(fixture_.server().idle());
  EXPECT_EQ(Health(fixture_.server().health_address(), "readiness"),
            HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Health(fixture_.server().health_address(), "liveness"), HealthCheckResponse::SERVING);

  TestStream late(fixture_.Connect());
  EXPECT_FALSE(late.Open());
  const grpc::Status refused = late.Finish();
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(HasRetryInfo(refused));

  stream.Send("request_id: 2 append { text: 'still served' }");
  EXPECT_TRUE(stream.Next(Event::kAppended).has_value());
  stream.HalfClose();
  EXPECT_TRUE(stream.Finish().ok());
  EXPECT_TRUE(Eventually([&] { return fixture_.server().idle(); }));
}

TEST_F(ServerTest, StreamsLeftAtTheEndOfADrainAreUnavailable) {
  TestStream stream(fixture_.Connect());
  ASSERT_TRUE(stream.Open());
  fixture_.server().StartDrain(0);
  fixture_.server().EndSessions();
  const grpc::Status status = stream.Finish();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(fixture_.HasClosed(CloseReason::kDrained, 1));
}

TEST_F(ServerTest, AFailedEngineEndsStreamsAndTurnsHealthOff) {
  TestStream stream(fixture_.Connect());
  ASSERT_TRUE(stream.Open());
  EXPECT_TRUE(fixture_.server().Tick());
  fixture_.engine().FailDevice(absl::InternalError("the device fell off the bus"));
  EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_FALSE(fixture_.server().Tick());
  EXPECT_EQ(Health(fixture_.server().address(), "readiness"), HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(Health(fixture_.server().address(), "liveness"), HealthCheckResponse::NOT_SERVING);
}

TEST(ServerStartTest, AnIdleSessionExpires) {
  Config config = InProcessServer::DefaultConfig();
  config.sessions.limits.idle_timeout_seconds = 60;
  InProcessServer fixture(config);
  TestStream stream(fixture.Connect());
  ASSERT_TRUE(stream.Open());
  fixture.clock().Advance(59);
  fixture.server().Tick();
  stream.Send("request_id: 2 append { text: 'x' }");
  ASSERT_TRUE(stream.Next(Event::kAppended).has_value());
  fixture.clock().Advance(61);
  fixture.server().Tick();
  EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::ABORTED);
  EXPECT_TRUE(fixture.AllRowsFree());
}

TEST(ServerStartTest, APortInUseIsOneClearError) {
  InProcessServer fixture;
  FakeEngine engine;
  const EngineMetrics engine_metrics;
  const SteadyClock clock;
  const Logger logger(LogLevel::kError, LogFormat::kText);
  const Server::Foundation foundation{&engine, &engine_metrics, &clock, &logger};
  Config config = InProcessServer::DefaultConfig();
  config.listen = fixture.server().address();
  EXPECT_THAT(
      Server::Start(config, foundation),
      StatusIs(absl::StatusCode::kUnavailable, HasSubstr("cannot listen on " + config.listen)));
}

TEST(ServerStartTest, HttpIsServedWhereItIsAskedFor) {
  Config config = InProcessServer::DefaultConfig();
  config.http_listen = "127.0.0.1:0";
  InProcessServer fixture(config);
  EXPECT_EQ(HttpGet(fixture.server().http_address(), "/readyz").status, 200);
  EXPECT_THAT(HttpGet(fixture.server().http_address(), "/metrics").body,
              HasSubstr("\nmayfly_sessions_active 0\n"));
  fixture.server().StartDrain(0);
  EXPECT_EQ(HttpGet(fixture.server().http_address(), "/readyz").status, 503);
}

TEST(ServerStartTest, DefaultsThatDoNotFitTheModelAreRefused) {
  Config config = InProcessServer::DefaultConfig();
  config.sessions.default_adaptation.rank = 1000;
  FakeEngine engine;
  const EngineMetrics engine_metrics;
  const SteadyClock clock;
  const Logger logger(LogLevel::kError, LogFormat::kText);
  EXPECT_THAT(Server::Start(config, {&engine, &engine_metrics, &clock, &logger}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("1000")));
}

TEST(ServerStartTest, ListenersCanBeLeftOut) {
  Config config = InProcessServer::DefaultConfig();
  config.health_listen = "";
  InProcessServer fixture(config);
  EXPECT_EQ(fixture.server().http_address(), "");
  EXPECT_EQ(fixture.server().health_address(), "");
}

}  // namespace
}  // namespace mayfly
