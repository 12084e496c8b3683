#pragma once

// The files of a secured server and its clients, and a server that reads them. Owned by a test.

#include <memory>
#include <string>
#include <utility>

#include "client/channel.h"
#include "gtest/gtest.h"
#include "mayfly/v1/admin_service.grpc.pb.h"
#include "tests/support/certificates.h"
#include "tests/support/in_process_server.h"
#include "tests/support/temp_dir.h"

namespace mayfly {

class SecureServer {
 public:
  // Writes the files first; then Start.
  SecureServer() = default;

  const TempDir& files() const { return files_; }
  Config& config() { return config_; }
  void WriteTokens(const std::string& text) {
    files_.Write("tokens", text);
    config_.auth_tokens_file = files_ / "tokens";
  }
  void WriteCertificate(const TestCertificate& certificate) {
    files_.Write("server.pem", certificate.certificate);
    files_.Write("server.key", certificate.key);
    config_.tls.cert = files_ / "server.pem";
    config_.tls.key = files_ / "server.key";
  }
  void WriteClientAuthority(const TestAuthority& authority) {
    files_.Write("clients.pem", authority.certificate());
    config_.tls.client_ca = files_ / "clients.pem";
  }
  void Start() { server_ = std::make_unique<InProcessServer>(config_); }

  InProcessServer& fixture() { return *server_; }
  Server& server() { return server_->server(); }
  // Reads what changed.
  void Tick() { EXPECT_TRUE(server().Tick()); }

  // A new connection.
  std::shared_ptr<grpc::Channel> Connect(ChannelOptions options = {}) const {
    options.address = server_->server().address();
    auto channel = CreateChannel(options);
    EXPECT_TRUE(channel.ok()) << channel.status();
    return *channel;
  }
  // One whose calls carry the token.
  std::shared_ptr<grpc::Channel> ConnectWith(const std::string& token) const {
    files_.Write("client_token", token + "\n");
    return Connect({.token_file = files_ / "client_token"});
  }
  // One over TLS, to a server whose certificate `authority` has signed, as far as we know.
  std::shared_ptr<grpc::Channel> Trust(const TestAuthority& authority) const {
    files_.Write("ca.pem", authority.certificate());
    return Connect({.tls_ca = files_ / "ca.pem"});
  }
  std::shared_ptr<grpc::Channel> Trust(const TestAuthority& authority,
                                       const TestCertificate& own) const {
    files_.Write("ca.pem", authority.certificate());
    files_.Write("client.pem", own.certificate);
    files_.Write("client.key", own.key);
    return Connect({.tls_ca = files_ / "ca.pem",
                    .tls_cert = files_ / "client.pem",
                    .tls_key = files_ / "client.key"});
  }

 private:
  const TempDir files_;
  Config config_ = InProcessServer::DefaultConfig();
  std::unique_ptr<InProcessServer> server_;
};

// How a call of GetServerInfo ends.
inline grpc::Status Ask(const std::shared_ptr<grpc::Channel>& channel) {
  grpc::ClientContext context;
  v1::GetServerInfoResponse response;
  return v1::InferenceService::NewStub(channel)->GetServerInfo(&context, {}, &response);
}

}  // namespace mayfly
