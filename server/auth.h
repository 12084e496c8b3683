#pragma once

// Who a call comes from: bearer tokens in a file, one tenant each, read again when the file
// changes. Owned by the Server; calls are checked on gRPC's threads, the file by the thread that
// ticks.

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/base/log.h"
#include "engine/base/mutex.h"
#include "grpcpp/server_context.h"
#include "server/secrets/watched_files.h"
#include "server/security_metrics.h"
#include "session/types.h"

namespace mayfly {

struct Caller {
  ClientIdentity client;
  // Sees all tenants and may drain.
  bool admin = false;
};

// The tokens of one version of the file. Immutable. Keeps digests: what lies in memory, and could
// end up in a core file, opens no door.
class TokenList {
 public:
  // One token a line, `TOKEN TENANT [admin]`; # starts a comment. An error names the line, never
  // what is in it.
  static absl::StatusOr<TokenList> Parse(absl::string_view text);

  struct Entry {
    std::string token_digest;
    std::string tenant;
    bool admin = false;
  };
  // Null for a token that is not in the list. Takes as long for one as for any other.
  const Entry* Find(absl::string_view token) const;
  size_t size() const { return entries_.size(); }

 private:
  std::vector<Entry> entries_;
};

class Authenticator {
 public:
  struct Options {
    // Empty: no tokens, and every caller is of the tenant "".
    std::string tokens_file;
    // Whether every caller is an admin where there are no tokens.
    bool anonymous_admin = false;
  };

  // INVALID_ARGUMENT for a file that cannot be used. The pointers outlive the authenticator.
  static absl::StatusOr<std::unique_ptr<Authenticator>> Create(const Options& options,
                                                               SecurityMetrics* metrics,
                                                               const Logger* logger);

  // Reads the file if it has changed; one that cannot be used changes nothing.
  void Reload();

  // UNAUTHENTICATED without a valid token. Any thread.
  absl::StatusOr<Caller> Authenticate(const grpc::CallbackServerContext& context) const;

 private:
  Authenticator(const Options& options, SecurityMetrics* metrics, const Logger* logger);
  // OK where nothing changed.
  absl::Status ReadTokens();

  const Options options_;
  SecurityMetrics* const metrics_;
  const Logger* const logger_;
  WatchedFiles files_;  // the ticking thread's

  mutable Mutex mu_;
  std::shared_ptr<const TokenList> tokens_ ABSL_GUARDED_BY(mu_);
};

}  // namespace mayfly
