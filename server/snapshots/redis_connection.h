#pragma once

// One connection to a Redis server, closed with the object; replies as values. Not thread-safe.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/snapshots/redis_address.h"

struct redisContext;

namespace mayfly {

class RedisConnection {
 public:
  // Connected, authenticated, and with the database selected. `timeout_seconds` bounds this wait
  // and each later one.
  static absl::StatusOr<RedisConnection> Open(const RedisAddress& address, double timeout_seconds);

  // The reply's text; nothing where Redis answers nil. UNAVAILABLE where it does not answer or
  // refuses, RESOURCE_EXHAUSTED where it has no memory left.
  absl::StatusOr<std::optional<std::string>> Call(const std::vector<absl::string_view>& words);

 private:
  struct Close {
    void operator()(redisContext* context) const;
  };

  explicit RedisConnection(redisContext* context) : context_(context) {}

  absl::Status Introduce(const RedisAddress& address);

  std::unique_ptr<redisContext, Close> context_;
};

}  // namespace mayfly
