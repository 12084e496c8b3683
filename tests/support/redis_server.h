#pragma once

// A real redis-server that belongs to the test: it keeps nothing on disk, listens on a unix socket
// (or a free port of the loopback) and ends with the object.

#include <sys/types.h>

#include <string>
#include <vector>

#include "server/snapshots/redis_address.h"
#include "tests/support/temp_dir.h"

namespace mayfly {

class RedisServer {
 public:
  enum class Listen { kUnix, kTcp };

  static bool IsInstalled();

  // `settings` follow the program's name: "--maxmemory", "2mb".
  explicit RedisServer(std::vector<std::string> settings = {}, Listen listen = Listen::kUnix);
  ~RedisServer() { Kill(); }
  RedisServer(const RedisServer&) = delete;
  RedisServer& operator=(const RedisServer&) = delete;

  const RedisAddress& address() const { return address_; }
  // False when it does not answer within a time far longer than it can take.
  bool Start();
  void Kill();

 private:
  void Spawn();
  bool Answers() const;
  bool IsRunning();

  const std::vector<std::string> settings_;
  const Listen listen_;
  const TempDir dir_;
  RedisAddress address_;
  pid_t process_ = 0;
};

}  // namespace mayfly
