#include "client/channel.h"

#include <algorithm>
#include <fstream>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "engine/base/loopback.h"
#include "engine/base/status_macros.h"
#include "grpcpp/create_channel.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/support/client_interceptor.h"

namespace mayfly {
namespace {

using Factory = grpc::experimental::ClientInterceptorFactoryInterface;

// Call credentials would do the same, but gRPC allows them over TLS alone.
class TokenInterceptor final : public grpc::experimental::Interceptor {
 public:
  explicit TokenInterceptor(const std::string& token) : token_(token) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    constexpr auto kFirst = grpc::experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA;
    if (methods->QueryInterceptionHookPoint(kFirst)) {
      methods->GetSendInitialMetadata()->emplace("authorization", absl::StrCat("Bearer ", token_));
    }
    methods->Proceed();
  }

 private:
  const std::string& token_;
};

class TokenFactory final : public Factory {
 public:
  explicit TokenFactory(std::string token) : token_(std::move(token)) {}

  // gRPC takes ownership.
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo*) override {
    return new TokenInterceptor(token_);
  }

 private:
  const std::string token_;
};

absl::StatusOr<std::string> ReadFile(absl::string_view option, const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream content;
  if (file.is_open()) content << file.rdbuf();
  if (!content.str().empty()) return content.str();
  return absl::InvalidArgumentError(
      absl::StrCat(option, " ", path, ": the file is empty or cannot be read"));
}

// The file's one word. An error does not show the file's content.
absl::StatusOr<std::string> ReadToken(const std::string& path) {
  MAYFLY_ASSIGN_OR_RETURN(const std::string text, ReadFile("token_file", path));
  std::vector<absl::string_view> words;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    line = absl::StripAsciiWhitespace(line);
    if (!line.empty() && line.front() != '#') words.push_back(line);
  }
  if (words.size() == 1 && std::all_of(words[0].begin(), words[0].end(), absl::ascii_isgraph)) {
    return std::string(words[0]);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("token_file ", path, ": want one token, in visible ASCII characters"));
}

absl::Status CheckTogether(const ChannelOptions& options) {
  if (options.tls_cert.empty() != options.tls_key.empty()) {
    return absl::InvalidArgumentError("tls_cert and tls_key go together");
  }
  if (options.tls_ca.empty() && !options.tls_cert.empty()) {
    return absl::InvalidArgumentError("tls_cert needs tls_ca: without it the channel is plaintext");
  }
  const bool bare = !options.token_file.empty() && options.tls_ca.empty();
  if (!bare || options.insecure || IsLoopback(options.address)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the token would reach ", options.address,
                                                 " in plaintext: set tls_ca, or insecure"));
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(
    const ChannelOptions& options) {
  if (options.tls_ca.empty()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions ssl;
  MAYFLY_ASSIGN_OR_RETURN(ssl.pem_root_certs, ReadFile("tls_ca", options.tls_ca));
  if (!options.tls_cert.empty()) {
    MAYFLY_ASSIGN_OR_RETURN(ssl.pem_cert_chain, ReadFile("tls_cert", options.tls_cert));
    MAYFLY_ASSIGN_OR_RETURN(ssl.pem_private_key, ReadFile("tls_key", options.tls_key));
  }
  return grpc::SslCredentials(ssl);
}

}  // namespace

absl::StatusOr<std::shared_ptr<grpc::Channel>> CreateChannel(const ChannelOptions& options) {
  MAYFLY_RETURN_IF_ERROR(CheckTogether(options));
  MAYFLY_ASSIGN_OR_RETURN(const auto credentials, Credentials(options));
  std::vector<std::unique_ptr<Factory>> interceptors;
  if (!options.token_file.empty()) {
    MAYFLY_ASSIGN_OR_RETURN(std::string token, ReadToken(options.token_file));
    interceptors.push_back(std::make_unique<TokenFactory>(std::move(token)));
  }
  // A connection of its own: gRPC would share one between channels of the same address.
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::experimental::CreateCustomChannelWithInterceptors(
      options.address, credentials, arguments, std::move(interceptors));
}

}  // namespace mayfly
