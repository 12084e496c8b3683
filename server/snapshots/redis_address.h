#pragma once

// Where a Redis server is and who we are to it. A plain value.

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace mayfly {

struct RedisAddress {
  // Of a unix socket; else empty, and host and port count.
  std::string socket_path;
  std::string host;
  int port = 6379;
  // Empty: the server's default user; no password.
  std::string user;
  std::string password;
  int database = 0;
};

// Whether `store` means Redis, and not a directory.
bool IsRedisUrl(absl::string_view store);

// redis://[[user]:password@]host[:port][/database] or
// redis+unix://[[user]:password@]/path/of/socket[?db=database]; %XX stands for a byte of user and
// password. An error never repeats the text, which may hold a password.
absl::StatusOr<RedisAddress> ParseRedisUrl(absl::string_view url);

}  // namespace mayfly
