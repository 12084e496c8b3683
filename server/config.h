#pragma once

// The server's configuration: one value for every flag, read from the command line, the environment
// and a flag file. Plain data; made once by main and handed out in parts.

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/base/log.h"
#include "engine/options.h"
#include "server/snapshots/snapshot_options.h"
#include "server/tls_files.h"
#include "session/session_manager.h"

namespace mayfly {

struct Config {
  EngineOptions engine;
  SessionManager::Options sessions;
  SnapshotOptions snapshots;

  // host:port, [ipv6]:port or unix:path; port 0 lets the system choose.
  std::string listen;
  // Empty: no such listener.
  std::string http_listen;
  std::string health_listen;
  bool insecure = false;
  // All empty: plaintext.
  TlsFiles tls;
  // Empty: callers need no token.
  std::string auth_tokens_file;
  int32_t max_message_bytes = 0;
  // 0: no bound.
  double max_connection_age_seconds = 0;
  double max_connection_age_grace_seconds = 0;
  double drain_timeout_seconds = 0;
  LogLevel log_level = LogLevel::kInfo;
  LogFormat log_format = LogFormat::kText;

  bool help = false;
  bool version = false;
};

using Environment = std::map<std::string, std::string>;

// Precedence: command line, then MAYFLY_<NAME> in the environment, then the flag file, then the
// default. `args` excludes the program's name. An error is one line that names the flag, its value
// and its limit.
absl::StatusOr<Config> ParseConfig(const std::vector<std::string>& args, const Environment& env);

// Every flag with its type, its default and what it does, a screen wide.
std::string ConfigHelp();

// The MAYFLY_ part of this process's environment.
Environment ReadEnvironment(const char* const* environ_pointer);

}  // namespace mayfly
