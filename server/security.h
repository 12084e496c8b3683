#pragma once

// Who may listen in and who may call: the main listener's certificates and its callers' tokens.
// Owned by the Server; see TlsCertificates and Authenticator for threads.

#include <memory>

#include "absl/status/statusor.h"
#include "engine/base/log.h"
#include "grpcpp/security/server_credentials.h"
#include "server/auth.h"
#include "server/config.h"
#include "server/security_metrics.h"
#include "server/tls.h"

namespace mayfly {

class Security {
 public:
  // Reads the files. INVALID_ARGUMENT that names flag and file. The logger outlives the object.
  static absl::StatusOr<std::unique_ptr<Security>> Create(const Config& config,
                                                          const Logger* logger);

  // Reads files that have changed; what cannot be used changes nothing. Called by Server::Tick.
  void Reload();

  const Authenticator& auth() const { return *auth_; }
  // For the one listener, which the object outlives; null: plaintext.
  std::shared_ptr<grpc::ServerCredentials> credentials() const;
  const SecurityMetrics& metrics() const { return metrics_; }

 private:
  Security() = default;

  SecurityMetrics metrics_;
  std::unique_ptr<Authenticator> auth_;
  std::unique_ptr<TlsCertificates> tls_;
};

}  // namespace mayfly
