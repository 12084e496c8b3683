#include "server/security.h"

#include "engine/base/loopback.h"
#include "engine/base/status_macros.h"

namespace mayfly {

absl::StatusOr<std::unique_ptr<Security>> Security::Create(const Config& config,
                                                           const Logger* logger) {
  std::unique_ptr<Security> security(new Security);
  // Without tokens everybody is whoever starts and stops the server, where only this machine can
  // call.
  const Authenticator::Options auth{.tokens_file = config.auth_tokens_file,
                                    .anonymous_admin = IsLoopback(config.listen)};
  MAYFLY_ASSIGN_OR_RETURN(security->auth_,
                          Authenticator::Create(auth, &security->metrics_, logger));
  if (!config.tls.enabled()) return security;
  MAYFLY_ASSIGN_OR_RETURN(security->tls_,
                          TlsCertificates::Create(config.tls, &security->metrics_, logger));
  return security;
}

void Security::Reload() {
  auth_->Reload();
  if (tls_ != nullptr) tls_->Reload();
}

std::shared_ptr<grpc::ServerCredentials> Security::credentials() const {
  return tls_ == nullptr ? nullptr : tls_->credentials();
}

}  // namespace mayfly
