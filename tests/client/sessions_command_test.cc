// `mayfly sessions` against an AdminService that says what a test tells it to.

#include <algorithm>
#include <functional>
#include <sstream>

#include "client/app.h"
#include "client/proto_fields.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "mayfly/v1/admin_service.grpc.pb.h"
#include "tests/support/fake_clock.h"
#include "tests/support/temp_dir.h"

namespace mayfly::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

// Has one session, "s1".
class FakeAdmin final : public v1::AdminService::Service {
 public:
  FakeAdmin() {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    address_ = "127.0.0.1:" + std::to_string(port);
  }
  ~FakeAdmin() override { server_->Shutdown(); }

  const std::string& address() const { return address_; }
  const std::string& authorization() const { return authorization_; }
  // Called at every look, with its number from 1 on.
  void OnList(std::function<void(int)> on_list) { on_list_ = std::move(on_list); }

 private:
  grpc::Status ListSessions(grpc::ServerContext* context, const v1::ListSessionsRequest*,
                            v1::ListSessionsResponse* response) override {
    const auto header = context->client_metadata().find("authorization");
    if (header != context->client_metadata().end()) {
      authorization_ = std::string(header->second.data(), header->second.size());
    }
    v1::SessionInfo* const info = response->add_sessions();
    info->set_session_id("s1");
    info->set_tenant("acme");
    info->set_label("night\x1b[2J");
    info->set_state(v1::SESSION_STATE_OPEN);
    info->set_running_command("generate");
    info->set_age_seconds(92.1);
    info->set_stream_position(12345);
    info->set_updates(3);
    info->set_updates_applied(2);
    if (on_list_) on_list_(++looks_);
    return grpc::Status::OK;
  }
  grpc::Status TerminateSession(grpc::ServerContext*, const v1::TerminateSessionRequest* request,
                                v1::TerminateSessionResponse*) override {
    if (request->session_id() == "s1") return grpc::Status::OK;
    return grpc::Status(grpc::NOT_FOUND, "there is no such session");
  }

  std::unique_ptr<grpc::Server> server_;
  std::string address_;
  std::string authorization_;
  std::function<void(int)> on_list_;
  int looks_ = 0;
};

class SessionsCommandTest : public ::testing::Test {
 protected:
  int Run(const std::vector<std::string>& arguments) {
    Environment env{in_, out_, err_, clock_, interrupts_};
    env.server = admin_.address();
    std::vector<std::string> all = {"sessions"};
    all.insert(all.end(), arguments.begin(), arguments.end());
    return RunApp(all, env);
  }

  FakeAdmin admin_;
  std::istringstream in_;
  std::ostringstream out_;
  std::ostringstream err_;
  const FakeClock clock_;
  Interrupts interrupts_{[] { FAIL() << "the process would have ended"; }};
};

TEST_F(SessionsCommandTest, SessionsAreATable) {
  EXPECT_EQ(Run({}), 0);
  EXPECT_EQ(
      out_.str(),
      "SESSION  TENANT  LABEL         STATE  RUNS      AGE     IDLE    TOKENS  UPDATES  LAG\n"
      "s1       acme    night\\033[2J  open   generate  92.1 s  0.00 s  12,345  2/3      0\n");
}

TEST_F(SessionsCommandTest, AsJsonEverySessionIsAnObject) {
  EXPECT_EQ(Run({"--json"}), 0);
  const Json session = Json::parse(out_.str());
  EXPECT_EQ(session["type"], "session");
  EXPECT_EQ(session["session_id"], "s1");
  EXPECT_EQ(session["state"], "open");
  EXPECT_EQ(session["updates_applied"], 2);
}

TEST_F(SessionsCommandTest, WatchingLooksAgainUntilInterrupted) {
  int looks = 0;
  admin_.OnList([&](int look) {
    looks = look;
    if (look == 3) interrupts_.Raise();
  });
  EXPECT_EQ(Run({"--watch", "--interval", "0"}), 0);
  EXPECT_EQ(looks, 3);
  const std::string text = out_.str();
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 6);
}

TEST_F(SessionsCommandTest, OneSessionIsEndedByItsId) {
  EXPECT_EQ(Run({"end", "s1"}), 0);
  EXPECT_EQ(out_.str(), "ended session s1\n");
  EXPECT_EQ(Run({"end", "s2"}), 1);
  EXPECT_EQ(err_.str(), "mayfly sessions: there is no such session\n");
}

TEST_F(SessionsCommandTest, BadUsageExitsWithTwo) {
  for (const std::vector<std::string>& arguments : std::vector<std::vector<std::string>>{
           {"end"}, {"stop", "s1"}, {"end", "s1", "s2"}, {"end", "s1", "--watch"}}) {
    EXPECT_EQ(Run(arguments), 2);
  }
}

// ---- The flags of every command ------------------------------------------------------------

TEST_F(SessionsCommandTest, TheTokenTravelsWithTheCall) {
  const TempDir files;
  files.Write("token", "# the operators'\nopen-sesame\n");
  EXPECT_EQ(Run({"--token_file", files / "token"}), 0);
  EXPECT_EQ(admin_.authorization(), "Bearer open-sesame");
}

TEST_F(SessionsCommandTest, FilesThatCannotBeUsedAreNamedAndNeverShown) {
  const TempDir files;
  files.Write("token", "two secrets\n");
  const std::pair<std::vector<std::string>, std::string> cases[] = {
      {{"--token_file", files / "token"}, "token_file " + (files / "token") + ": want one token"},
      {{"--token_file", "/no/such"}, "token_file /no/such: the file is empty or cannot be read"},
      {{"--tls_ca", "/no/such"}, "tls_ca /no/such: the file is empty or cannot be read"},
      {{"--tls_ca", files / "token", "--tls_cert", "x"}, "tls_cert and tls_key go together"},
      {{"--tls_cert", "x", "--tls_key", "y"}, "tls_cert needs tls_ca"}};
  for (const auto& [arguments, message] : cases) {
    err_.str("");
    EXPECT_EQ(Run(arguments), 1);
    EXPECT_THAT(err_.str(), StartsWith("mayfly sessions: " + message));
    EXPECT_THAT(err_.str(), Not(HasSubstr("secrets")));
  }
}

TEST_F(SessionsCommandTest, ATokenIsNotSentToOtherMachinesInPlaintext) {
  const TempDir files;
  files.Write("token", "open-sesame");
  EXPECT_EQ(Run({"--server", "example.invalid:1", "--token_file", files / "token"}), 1);
  EXPECT_THAT(err_.str(), HasSubstr("the token would reach example.invalid:1 in plaintext"));
}

}  // namespace
}  // namespace mayfly::cli
