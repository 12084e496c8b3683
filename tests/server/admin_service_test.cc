// What operators see and do, and what tenants see of each other: nothing.

#include "server/admin_service.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/server/secure_server.h"
#include "tests/support/eventually.h"

namespace mayfly {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr auto kNotFound = grpc::StatusCode::NOT_FOUND;

// AdminService under one token.
class Operator {
 public:
  explicit Operator(const std::shared_ptr<grpc::Channel>& channel)
      : stub_(v1::AdminService::NewStub(channel)) {}

  std::vector<v1::SessionInfo> List() {
    grpc::ClientContext context;
    v1::ListSessionsResponse response;
    EXPECT_TRUE(stub_->ListSessions(&context, {}, &response).ok());
    return {response.sessions().begin(), response.sessions().end()};
  }
  std::vector<std::string> ListedIds() {
    std::vector<std::string> ids;
    for (const v1::SessionInfo& info : List()) ids.push_back(info.session_id());
    return ids;
  }
  grpc::Status Get(const std::string& id, v1::SessionInfo* info) {
    grpc::ClientContext context;
    v1::GetSessionRequest request;
    request.set_session_id(id);
    v1::GetSessionResponse response;
    const grpc::Status status = stub_->GetSession(&context, request, &response);
    *info = response.session();
    return status;
  }
  grpc::Status Terminate(const std::string& id) {
    grpc::ClientContext context;
    v1::TerminateSessionRequest request;
    request.set_session_id(id);
    v1::TerminateSessionResponse response;
    return stub_->TerminateSession(&context, request, &response);
  }
  grpc::Status Drain(v1::DrainResponse* response) {
    grpc::ClientContext context;
    return stub_->Drain(&context, {}, response);
  }

 private:
  const std::unique_ptr<v1::AdminService::Stub> stub_;
};

class AdminServiceTest : public testing::Test {
 protected:
  AdminServiceTest() {
    host_.WriteTokens("token-a acme\ntoken-z zeta\ntoken-root root admin\n");
    host_.Start();
  }

  // Opens a session under the token and returns its id.
  static std::string Open(TestStream* stream, const std::string& fields = "") {
    EXPECT_TRUE(stream->Send("request_id: 1 open { " + fields + " }"));
    const auto opened = stream->Next(v1::SessionResponse::kOpened);
    EXPECT_TRUE(opened.has_value());
    return opened ? opened->opened().session_id() : "";
  }

  SecureServer host_;
};

// ---- Seeing --------------------------------------------------------------------------------

TEST_F(AdminServiceTest, ASessionIsShownWithAllButItsText) {
  TestStream stream(host_.ConnectWith("token-a"));
  const std::string id = Open(&stream, "label: 'nightly' window_tokens: 48");
  host_.fixture().clock().Advance(5);
  stream.Send("request_id: 2 append { text: 'sixteen letters and some' }");
  ASSERT_TRUE(stream.Next(v1::SessionResponse::kUpdate).has_value());

  Operator root(host_.ConnectWith("token-root"));
  const auto listed = [&] { return root.List().at(0); };
  ASSERT_TRUE(Eventually([&] { return listed().outstanding_commands() == 0; }));
  host_.fixture().clock().Advance(2);
  const v1::SessionInfo info = listed();
  EXPECT_EQ(info.session_id(), id);
  EXPECT_EQ(info.label(), "nightly");
  EXPECT_EQ(info.tenant(), "acme");
  EXPECT_THAT(info.peer(), HasSubstr("127.0.0.1"));
  EXPECT_EQ(info.state(), v1::SESSION_STATE_OPEN);
  EXPECT_EQ(info.adapter_version(), 1u);
  EXPECT_EQ(info.window_tokens(), 48u);
  EXPECT_EQ(info.window_position(), 24u);
  EXPECT_EQ(info.stream_position(), 24u);
  EXPECT_EQ(info.lag_chunks(), 0u);
  const RowBytes row = host_.fixture().engine().info().row_bytes;
  EXPECT_EQ(info.reserved_bytes().kv(), row.kv);
  EXPECT_EQ(info.reserved_bytes().optimizer(), row.optimizer);
  EXPECT_DOUBLE_EQ(info.age_seconds(), 7);
  EXPECT_DOUBLE_EQ(info.idle_seconds(), 2);
  EXPECT_EQ(info.usage().prompt_tokens(), 24u);
  EXPECT_EQ(info.updates(), 1u);
  EXPECT_EQ(info.updates_applied(), 1u);
  EXPECT_EQ(info.running_command(), "");
}

TEST_F(AdminServiceTest, WhatRunsAndWhatWaitsIsShown) {
  TestStream stream(host_.ConnectWith("token-a"));
  const std::string id = Open(&stream);
  stream.Send("request_id: 2 append { text: 'hello' }");
  stream.Send("request_id: 3 generate { max_tokens: 1000000 ignore_eos: true }");
  stream.Send("request_id: 4 append { text: 'waits' }");
  Operator root(host_.ConnectWith("token-root"));
  v1::SessionInfo info;
  EXPECT_TRUE(Eventually([&] {
    return root.Get(id, &info).ok() && info.running_command() == "generate" &&
           info.outstanding_commands() == 2;
  }));
}

TEST_F(AdminServiceTest, AConnectionThatHasNotOpenedIsShownAsNew) {
  TestStream stream(host_.ConnectWith("token-a"));
  Operator root(host_.ConnectWith("token-root"));
  ASSERT_TRUE(Eventually([&] { return root.List().size() == 1; }));
  const v1::SessionInfo info = root.List().at(0);
  EXPECT_EQ(info.state(), v1::SESSION_STATE_NEW);
  EXPECT_EQ(info.reserved_bytes().kv(), 0u);
  EXPECT_EQ(info.stream_position(), 0u);
}

TEST_F(AdminServiceTest, TheOldestSessionComesFirst) {
  TestStream one(host_.ConnectWith("token-a"));
  const std::string first = Open(&one);
  host_.fixture().clock().Advance(1);
  TestStream two(host_.ConnectWith("token-z"));
  const std::string second = Open(&two);
  Operator root(host_.ConnectWith("token-root"));
  EXPECT_THAT(root.ListedIds(), ElementsAre(first, second));
}

// ---- Tenants -------------------------------------------------------------------------------

TEST_F(AdminServiceTest, ATenantSeesAndEndsItsOwnSessionsAlone) {
  TestStream ours(host_.ConnectWith("token-a"));
  TestStream theirs(host_.ConnectWith("token-z"));
  const std::string our_id = Open(&ours);
  const std::string their_id = Open(&theirs);

  Operator tenant(host_.ConnectWith("token-a"));
  v1::SessionInfo info;
  EXPECT_THAT(tenant.ListedIds(), ElementsAre(our_id));
  EXPECT_TRUE(tenant.Get(our_id, &info).ok());

  // A foreign id is answered as one that does not exist.
  const grpc::Status foreign = tenant.Get(their_id, &info);
  const grpc::Status unknown = tenant.Get("no such id", &info);
  EXPECT_EQ(foreign.error_code(), kNotFound);
  EXPECT_EQ(unknown.error_code(), kNotFound);
  EXPECT_EQ(foreign.error_message(), unknown.error_message());
  EXPECT_EQ(tenant.Terminate(their_id).error_code(), kNotFound);
  EXPECT_EQ(tenant.Terminate(their_id).error_message(), unknown.error_message());
  theirs.Send("request_id: 2 append { text: 'unharmed' }");
  EXPECT_TRUE(theirs.Next(v1::SessionResponse::kAppended).has_value());

  EXPECT_TRUE(tenant.Terminate(our_id).ok());
  EXPECT_EQ(ours.Finish().error_code(), grpc::StatusCode::ABORTED);
}

TEST_F(AdminServiceTest, ATenantMayNotDrain) {
  Operator tenant(host_.ConnectWith("token-a"));
  v1::DrainResponse response;
  EXPECT_EQ(tenant.Drain(&response).error_code(), grpc::StatusCode::PERMISSION_DENIED);
  EXPECT_FALSE(host_.server().drain_deadline().has_value());
}

// ---- Ending --------------------------------------------------------------------------------

TEST_F(AdminServiceTest, ATerminatedSessionEndsWithAbortedAndFreesItsRow) {
  TestStream stream(host_.ConnectWith("token-a"));
  const std::string id = Open(&stream);
  stream.Send("request_id: 2 append { text: 'hello' }");
  stream.Send("request_id: 3 generate { max_tokens: 1000000 ignore_eos: true }");
  ASSERT_TRUE(stream.Next(v1::SessionResponse::kDelta).has_value());
  Operator root(host_.ConnectWith("token-root"));
  EXPECT_TRUE(root.Terminate(id).ok());
  const auto closed = stream.Next(v1::SessionResponse::kClosed);
  ASSERT_TRUE(closed.has_value());
  EXPECT_EQ(closed->closed().reason(), "terminated");
  EXPECT_EQ(stream.Finish().error_code(), grpc::StatusCode::ABORTED);
  EXPECT_TRUE(host_.fixture().AllRowsFree());
  EXPECT_TRUE(host_.fixture().HasClosed(CloseReason::kTerminated, 1));
  EXPECT_TRUE(Eventually([&] { return root.List().empty(); }));
  EXPECT_EQ(root.Terminate(id).error_code(), kNotFound);
}

TEST_F(AdminServiceTest, ADrainStartsOnceAndSaysWhatIsLeft) {
  TestStream stream(host_.ConnectWith("token-a"));
  Open(&stream);
  Operator root(host_.ConnectWith("token-root"));
  v1::DrainResponse first;
  ASSERT_TRUE(root.Drain(&first).ok());
  EXPECT_EQ(first.open_sessions(), 1u);
  const auto draining = stream.Next(v1::SessionResponse::kDraining);
  ASSERT_TRUE(draining.has_value());
  EXPECT_DOUBLE_EQ(draining->draining().deadline(), first.deadline());
  EXPECT_TRUE(host_.server().drain_deadline().has_value());

  TestStream late(host_.ConnectWith("token-a"));
  EXPECT_FALSE(late.Open());
  EXPECT_EQ(late.Finish().error_code(), grpc::StatusCode::UNAVAILABLE);

  stream.HalfClose();
  EXPECT_TRUE(stream.Finish().ok());
  ASSERT_TRUE(Eventually([&] { return host_.server().idle(); }));
  v1::DrainResponse second;
  ASSERT_TRUE(root.Drain(&second).ok());
  EXPECT_DOUBLE_EQ(second.deadline(), first.deadline());
  EXPECT_EQ(second.open_sessions(), 0u);
}

TEST_F(AdminServiceTest, CallsAreCountedByMethodAndCode) {
  Operator root(host_.ConnectWith("token-root"));
  EXPECT_THAT(root.List(), IsEmpty());
  EXPECT_EQ(root.Terminate("nobody").error_code(), kNotFound);
  const auto& handled = host_.server().server_metrics().handled;
  EXPECT_EQ(handled[static_cast<size_t>(RpcMethod::kListSessions)][grpc::StatusCode::OK].value(),
            1u);
  EXPECT_EQ(handled[static_cast<size_t>(RpcMethod::kTerminateSession)][kNotFound].value(), 1u);
}

// ---- Without tokens ------------------------------------------------------------------------

TEST(AdminWithoutTokensTest, OnTheLoopbackEverybodyIsAdmin) {
  InProcessServer fixture;
  Operator anybody(fixture.Connect());
  v1::DrainResponse response;
  EXPECT_TRUE(anybody.Drain(&response).ok());
}

TEST(AdminWithoutTokensTest, OffTheLoopbackNobodyIs) {
  Config config = InProcessServer::DefaultConfig();
  config.listen = "0.0.0.0:0";
  InProcessServer fixture(config);
  Operator anybody(fixture.Connect());
  EXPECT_THAT(anybody.List(), IsEmpty());
  v1::DrainResponse response;
  EXPECT_EQ(anybody.Drain(&response).error_code(), grpc::StatusCode::PERMISSION_DENIED);
}

}  // namespace
}  // namespace mayfly
