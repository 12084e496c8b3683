// Bearer tokens: the file, and the calls that carry them.

#include "server/auth.h"

#include "gmock/gmock.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "gtest/gtest.h"
#include "server/security.h"
#include "tests/server/secure_server.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnauthenticated = grpc::StatusCode::UNAUTHENTICATED;

// ---- The list ------------------------------------------------------------------------------

TEST(TokenListTest, EveryLineGivesATokenItsTenant) {
  const auto list = TokenList::Parse(
      "# who may call\n\nalpha acme\n  beta\tacme  admin\r\ngamma zeta # until spring\n");
  ASSERT_THAT(list, IsOk());
  EXPECT_EQ(list->size(), 3u);
  ASSERT_NE(list->Find("alpha"), nullptr);
  EXPECT_EQ(list->Find("alpha")->tenant, "acme");
  EXPECT_FALSE(list->Find("alpha")->admin);
  EXPECT_TRUE(list->Find("beta")->admin);
  EXPECT_EQ(list->Find("gamma")->tenant, "zeta");
  for (const char* other : {"", "alph", "alphaa", "ALPHA", "acme", "#"}) {
    EXPECT_EQ(list->Find(other), nullptr) << other;
  }
}

TEST(TokenListTest, AFaultIsNamedByItsLineAndNotByWhatItHolds) {
  const std::pair<const char*, const char*> cases[] = {
      {"secret1 acme\nsecret2\n", "line 2: want TOKEN TENANT [admin]"},
      {"secret1 acme administrator", "line 1: want TOKEN TENANT [admin]"},
      {"secret1 acme admin secret2", "line 1: want TOKEN TENANT [admin]"},
      {"secret\xc3\xa9 acme", "line 1: want TOKEN TENANT [admin] in visible ASCII"},
      {"secret1 acme\n\nsecret1 zeta", "line 3: its token is also on a line before"},
      {"", "holds no token"},
      {"# none\n", "holds no token"}};
  for (const auto& [text, error] : cases) {
    EXPECT_THAT(TokenList::Parse(text),
                StatusIs(kInvalid, AllOf(HasSubstr(error), Not(HasSubstr("secret")))))
        << text;
  }
}

// ---- Calls ---------------------------------------------------------------------------------

class AuthTest : public testing::Test {
 protected:
  AuthTest() { host_.WriteTokens("alpha-token acme\nbeta-token zeta admin\n"); }

  grpc::Status AskWith(const std::string& token) { return Ask(host_.ConnectWith(token)); }
  // With this value of the header, as it is.
  grpc::Status AskWithHeader(const std::vector<std::string>& values) {
    grpc::ClientContext context;
    for (const std::string& value : values) context.AddMetadata("authorization", value);
    v1::GetServerInfoResponse response;
    const auto stub = v1::InferenceService::NewStub(host_.Connect());
    return stub->GetServerInfo(&context, {}, &response);
  }

  SecureServer host_;
};

TEST_F(AuthTest, AValidTokenOpensASessionOfItsTenant) {
  host_.Start();
  TestStream stream(host_.ConnectWith("alpha-token"));
  ASSERT_TRUE(stream.Open());
  EXPECT_EQ(host_.fixture().engine().opened().at(0).tenant, "acme");
}

TEST_F(AuthTest, EveryCallWithoutAValidTokenIsUnauthenticated) {
  host_.Start();
  for (const auto& channel : {host_.Connect(), host_.ConnectWith("wrong-token")}) {
    EXPECT_EQ(Ask(channel).error_code(), kUnauthenticated);
    TestStream stream(channel);
    EXPECT_FALSE(stream.Open());
    EXPECT_EQ(stream.Finish().error_code(), kUnauthenticated);
    const auto admin = v1::AdminService::NewStub(channel);
    const auto status = [](auto call) {
      grpc::ClientContext context;
      return call(&context).error_code();
    };
    v1::ListSessionsResponse list;
    v1::GetSessionResponse get;
    v1::TerminateSessionResponse terminate;
    v1::DrainResponse drain;
    EXPECT_EQ(status([&](auto* c) { return admin->ListSessions(c, {}, &list); }), kUnauthenticated);
    EXPECT_EQ(status([&](auto* c) { return admin->GetSession(c, {}, &get); }), kUnauthenticated);
    EXPECT_EQ(status([&](auto* c) { return admin->TerminateSession(c, {}, &terminate); }),
              kUnauthenticated);
    EXPECT_EQ(status([&](auto* c) { return admin->Drain(c, {}, &drain); }), kUnauthenticated);
  }
  EXPECT_TRUE(host_.fixture().AllRowsFree());
  EXPECT_FALSE(host_.server().drain_deadline().has_value());
  EXPECT_TRUE(host_.fixture().engine().opened().empty());
  const auto& handled = host_.server().server_metrics().handled;
  EXPECT_EQ(handled[static_cast<size_t>(RpcMethod::kSession)][kUnauthenticated].value(), 2u);
  EXPECT_EQ(handled[static_cast<size_t>(RpcMethod::kDrain)][kUnauthenticated].value(), 2u);
}

TEST_F(AuthTest, TheHeaderIsOneBearerToken) {
  host_.Start();
  EXPECT_TRUE(AskWithHeader({"Bearer alpha-token"}).ok());
  EXPECT_TRUE(AskWithHeader({"bearer alpha-token"}).ok());
  for (const std::vector<std::string>& values :
       std::vector<std::vector<std::string>>{{"alpha-token"},
                                             {"Basic alpha-token"},
                                             {"Bearer "},
                                             {"Bearer alpha-token x"},
                                             {"Bearer alpha-token", "Bearer beta-token"}}) {
    EXPECT_EQ(AskWithHeader(values).error_code(), kUnauthenticated) << values[0];
  }
}

TEST_F(AuthTest, HealthNeedsNoToken) {
  host_.Start();
  const auto stub = ::grpc::health::v1::Health::NewStub(host_.Connect());
  grpc::ClientContext context;
  ::grpc::health::v1::HealthCheckResponse response;
  EXPECT_TRUE(stub->Check(&context, {}, &response).ok());
}

TEST_F(AuthTest, WithoutAFileEverybodyMayCall) {
  host_.config().auth_tokens_file = "";
  host_.Start();
  EXPECT_TRUE(Ask(host_.Connect()).ok());
  EXPECT_TRUE(AskWith("any-token").ok());
}

// ---- Reload --------------------------------------------------------------------------------

TEST_F(AuthTest, AnAddedTokenIsTakenAndARemovedOneRefusedButItsStreamLivesOn) {
  host_.Start();
  TestStream stream(host_.ConnectWith("alpha-token"));
  ASSERT_TRUE(stream.Open());
  host_.WriteTokens("beta-token zeta\ndelta-token acme\n");
  EXPECT_EQ(AskWith("delta-token").error_code(), kUnauthenticated) << "not before it is read";
  host_.Tick();
  EXPECT_TRUE(AskWith("delta-token").ok());
  EXPECT_EQ(AskWith("alpha-token").error_code(), kUnauthenticated);
  stream.Send("request_id: 2 append { text: 'hello' }");
  EXPECT_TRUE(stream.Next(v1::SessionResponse::kAppended).has_value());
}

TEST_F(AuthTest, ABrokenFileKeepsTheOldTokensAndIsReportedByLine) {
  host_.Start();
  host_.WriteTokens("beta-token zeta\ndelta-token\n");
  testing::internal::CaptureStderr();
  host_.Tick();
  host_.Tick();
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, AllOf(HasSubstr("error auth_tokens_reload_failed"), HasSubstr("line 2"),
                         Not(HasSubstr("delta-token"))));
  EXPECT_EQ(host_.server().security_metrics().auth_reload_failures.value(), 1u);
  EXPECT_TRUE(AskWith("alpha-token").ok());
  EXPECT_EQ(AskWith("delta-token").error_code(), kUnauthenticated);
}

TEST_F(AuthTest, AFileThatCannotBeUsedAtStartIsNamed) {
  const Logger logger(LogLevel::kError, LogFormat::kText);
  host_.WriteTokens("alpha-token\n");
  EXPECT_THAT(Security::Create(host_.config(), &logger),
              StatusIs(kInvalid,
                       HasSubstr("--auth_tokens_file=" + (host_.files() / "tokens") + ": line 1")));
  host_.config().auth_tokens_file = "/no/such/file";
  EXPECT_THAT(
      Security::Create(host_.config(), &logger),
      StatusIs(kInvalid, HasSubstr("--auth_tokens_file=/no/such/file: cannot read it: No such")));
}

// ---- Secrets -------------------------------------------------------------------------------

TEST_F(AuthTest, NoTokenNoKeyAndNoTextIsLogged) {
  const TestAuthority authority;
  const TestCertificate certificate = authority.Issue("server");
  host_.WriteCertificate(certificate);
  host_.config().log_level = LogLevel::kDebug;
  host_.files().Write("ca.pem", authority.certificate());
  host_.files().Write("token", "alpha-token");
  host_.files().Write("wrong", "wrong-token");
  testing::internal::CaptureStderr();
  host_.Start();
  for (const char* token : {"token", "wrong"}) {
    TestStream stream(
        host_.Connect({.tls_ca = host_.files() / "ca.pem", .token_file = host_.files() / token}));
    if (stream.Open()) {
      stream.Send("request_id: 2 append { text: 'a private text' }");
      EXPECT_TRUE(stream.Next(v1::SessionResponse::kAppended).has_value());
      stream.HalfClose();
    }
    stream.Finish();
  }
  host_.WriteTokens("gamma-token");
  host_.Tick();
  EXPECT_TRUE(host_.fixture().AllRowsFree());
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_THAT(log, AllOf(HasSubstr("auth_tokens_loaded"), HasSubstr("tls_certificate_loaded"),
                         HasSubstr("session_opened"), HasSubstr("auth_tokens_reload_failed")));
  const std::string key_line = certificate.key.substr(certificate.key.find('\n') + 1, 40);
  for (const std::string& secret : {std::string("-token"), key_line, std::string("private text")}) {
    EXPECT_THAT(log, Not(HasSubstr(secret)));
  }
}

}  // namespace
}  // namespace mayfly
