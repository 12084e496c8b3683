// Certificates of the listener, as clients meet them: served, replaced under way, and wanted from
// clients.

#include "server/tls.h"

#include <filesystem>
#include <functional>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/security.h"
#include "tests/server/secure_server.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kUnavailable = grpc::StatusCode::UNAVAILABLE;

class TlsTest : public testing::Test {
 protected:
  TlsTest() { host_.WriteCertificate(ours_.Issue("server", 3'000'000'000)); }

  const SecurityMetrics& metrics() { return host_.server().security_metrics(); }
  // What starting with the files as they are comes to.
  absl::Status StatusOfStart() {
    const Logger logger(LogLevel::kError, LogFormat::kText);
    return Security::Create(host_.config(), &logger).status();
  }

  const TestAuthority ours_;
  const TestAuthority others_;
  SecureServer host_;
};

TEST_F(TlsTest, AClientThatTrustsTheAuthorityIsServed) {
  host_.Start();
  EXPECT_TRUE(Ask(host_.Trust(ours_)).ok());
  TestStream stream(host_.Trust(ours_));
  EXPECT_TRUE(stream.Open());
}

TEST_F(TlsTest, NoOtherClientIs) {
  host_.Start();
  EXPECT_EQ(Ask(host_.Trust(others_)).error_code(), kUnavailable);
  EXPECT_EQ(Ask(host_.Connect()).error_code(), kUnavailable) << "in plaintext";
}

// ---- Reload --------------------------------------------------------------------------------

TEST_F(TlsTest, NewConnectionsMeetTheNewCertificateAndOldOnesGoOn) {
  host_.Start();
  TestStream stream(host_.Trust(ours_));
  ASSERT_TRUE(stream.Open());
  EXPECT_EQ(metrics().tls_expiry.value(), 3'000'000'000);

  host_.WriteCertificate(others_.Issue("server", 3'500'000'000));
  host_.Tick();
  EXPECT_TRUE(Ask(host_.Trust(others_)).ok());
  EXPECT_EQ(Ask(host_.Trust(ours_)).error_code(), kUnavailable);
  EXPECT_EQ(metrics().tls_expiry.value(), 3'500'000'000);
  EXPECT_EQ(metrics().tls_reload_failures.value(), 0u);
  stream.Send("request_id: 2 append { text: 'hello' }");
  EXPECT_TRUE(stream.Next(v1::SessionResponse::kAppended).has_value());
}

TEST_F(TlsTest, FilesThatCannotBeUsedKeepTheOldCertificateAndAreReportedOnce) {
  host_.Start();
  const std::vector<std::function<void()>> faults = {
      [&] { std::filesystem::remove(host_.files() / "server.pem"); },
      [&] { host_.files().Write("server.pem", "-----BEGIN CERTIFICATE-----\nhalf"); },
      // Its key is still the old one's.
      [&] { host_.files().Write("server.pem", ours_.Issue("next").certificate); }};
  uint64_t failures = 0;
  for (const auto& fault : faults) {
    fault();
    testing::internal::CaptureStderr();
    host_.Tick();
    host_.Tick();
    const std::string log = testing::internal::GetCapturedStderr();
    EXPECT_THAT(log, AllOf(HasSubstr("error tls_reload_failed"), HasSubstr("--tls_"),
                           HasSubstr(host_.files() / "server.")));
    EXPECT_EQ(metrics().tls_reload_failures.value(), ++failures);
    EXPECT_TRUE(Ask(host_.Trust(ours_)).ok());
    EXPECT_EQ(metrics().tls_expiry.value(), 3'000'000'000);
  }
  host_.WriteCertificate(ours_.Issue("server", 3'500'000'000));
  host_.Tick();
  EXPECT_TRUE(Ask(host_.Trust(ours_)).ok());
  EXPECT_EQ(metrics().tls_expiry.value(), 3'500'000'000);
  EXPECT_EQ(metrics().tls_reload_failures.value(), failures);
}

TEST_F(TlsTest, TheExpiryIsThatOfTheChainsFirstCertificateToExpire) {
  TestCertificate chain = ours_.Issue("server", 3'000'000'000);
  chain.certificate += others_.Issue("intermediate", 2'500'000'000).certificate;
  host_.WriteCertificate(chain);
  host_.Start();
  EXPECT_EQ(metrics().tls_expiry.value(), 2'500'000'000);
}

// ---- Clients with certificates -------------------------------------------------------------

TEST_F(TlsTest, AClientWithoutTheRightCertificateIsRefused) {
  const TestAuthority clients;
  host_.WriteClientAuthority(clients);
  host_.Start();
  EXPECT_TRUE(Ask(host_.Trust(ours_, clients.Issue("client"))).ok());
  EXPECT_EQ(Ask(host_.Trust(ours_)).error_code(), kUnavailable);
  EXPECT_EQ(Ask(host_.Trust(ours_, others_.Issue("client"))).error_code(), kUnavailable);
}

TEST_F(TlsTest, TheClientsAuthorityIsReplacedUnderWayToo) {
  host_.WriteClientAuthority(others_);
  host_.Start();
  const TestAuthority next;
  host_.WriteClientAuthority(next);
  host_.Tick();
  EXPECT_TRUE(Ask(host_.Trust(ours_, next.Issue("client"))).ok());
  EXPECT_EQ(Ask(host_.Trust(ours_, others_.Issue("client"))).error_code(), kUnavailable);
}

// ---- Start ---------------------------------------------------------------------------------

TEST_F(TlsTest, FilesThatCannotBeUsedAtStartAreNamedWithTheirFlag) {
  EXPECT_THAT(StatusOfStart(), IsOk());
  const std::string cert = host_.files() / "server.pem";
  const std::string key = host_.files() / "server.key";
  const std::string clients = host_.files() / "clients.pem";

  host_.files().Write("server.pem", "nothing of the kind");
  EXPECT_THAT(StatusOfStart(),
              StatusIs(kInvalid, HasSubstr("--tls_cert=" + cert + ": want certificates in PEM")));
  host_.files().Write("server.pem", ours_.Issue("another").certificate);
  EXPECT_THAT(StatusOfStart(),
              StatusIs(kInvalid, HasSubstr("--tls_key=" + key + ": does not fit")));
  host_.files().Write("server.key",
                      "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n"
                      "-----END ENCRYPTED PRIVATE KEY-----\n");
  EXPECT_THAT(StatusOfStart(), StatusIs(kInvalid, HasSubstr("--tls_key=" + key + ": want an")));
  std::filesystem::remove(key);
  EXPECT_THAT(StatusOfStart(),
              StatusIs(kInvalid, HasSubstr("--tls_key=" + key + ": cannot read it: No such")));

  host_.WriteCertificate(ours_.Issue("server"));
  host_.files().Write("clients.pem", "");
  host_.config().tls.client_ca = clients;
  EXPECT_THAT(StatusOfStart(), StatusIs(kInvalid, HasSubstr("--tls_client_ca=" + clients)));
}

}  // namespace
}  // namespace mayfly
