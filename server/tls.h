#pragma once

// The certificate of a listener, read again when its files change, and the certificates it wants
// from clients. Files that do not fit together, as in the middle of a rotation, change nothing.
// Owned by the Server; handshakes ask for it on gRPC's threads, the files are read by the thread
// that ticks.
//
// Stands on the core's fetcher of certificate configurations, which each handshake asks for news.
// gRPC's own watcher of files (experimental in 1.51) does not look whether a key fits its
// certificate, and drops the old pair when it cannot read the new one.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/base/log.h"
#include "grpcpp/security/server_credentials.h"
#include "server/secrets/watched_files.h"
#include "server/security_metrics.h"
#include "server/tls_files.h"

namespace mayfly {

class TlsCertificates {
 public:
  // INVALID_ARGUMENT that names flag and file. The pointers outlive the object.
  static absl::StatusOr<std::unique_ptr<TlsCertificates>> Create(const TlsFiles& files,
                                                                 SecurityMetrics* metrics,
                                                                 const Logger* logger);
  ~TlsCertificates();

  // Reads the files if they have changed; those that cannot be used change nothing.
  void Reload();

  // For one listener, which the object outlives.
  std::shared_ptr<grpc::ServerCredentials> credentials() const;

 private:
  // What handshakes read.
  class Source;

  TlsCertificates(const TlsFiles& files, SecurityMetrics* metrics, const Logger* logger);
  // OK where nothing changed.
  absl::Status Read();

  const TlsFiles files_;
  SecurityMetrics* const metrics_;
  const Logger* const logger_;
  const std::unique_ptr<Source> source_;
  WatchedFiles watched_;  // the ticking thread's
};

}  // namespace mayfly
