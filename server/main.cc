// mayflyd: reads its configuration, builds the engine and the server, and serves until it is told
// to stop.

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "engine/base/status_macros.h"
#include "engine/base/wall_clock.h"
#include "engine/create_engine.h"
#include "google/protobuf/stubs/logging.h"
#include "server/config.h"
#include "server/security.h"
#include "server/serve.h"
#include "server/server.h"
#include "server/snapshots/sealing_vault.h"
#include "server/stop_signals.h"
#include "server/version.h"

namespace mayfly {
namespace {

constexpr int kFailed = 1;
constexpr int kBadConfiguration = 2;

int Fail(int exit_status, const absl::Status& status) {
  std::fprintf(stderr, "mayflyd: %s\n", std::string(status.message()).c_str());
  return exit_status;
}

// What its libraries would write to stderr for every odd message or address, we say ourselves where
// it matters. An operator's own GRPC_VERBOSITY wins.
void QuietLibraries() {
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  google::protobuf::SetLogHandler(nullptr);
}

// Threads of a forward pass wait for each other some thousand times a second. OpenMP's spin for
// milliseconds by default, which on cores shared with anybody else stalls the very thread that they
// wait for: two servers on two cores decode 1.4 tokens/s each, and 34 with short spins, which cost
// at most 4 % where the cores are ours. OpenMP reads the setting before main, so the process
// starts itself again, once; an operator's own setting wins.
void ShortenSpins(char** argv) {
  if (getenv("GOMP_SPINCOUNT") != nullptr || getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("GOMP_SPINCOUNT", "1000", /*overwrite=*/1);
  // The program's own path, as the link would give the process its name: "exe".
  std::error_code error;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", error);
  execv(program.c_str(), argv);  // returns only where that fails, and then nothing has changed
}

void Announce(const Server& server) {
  std::string line = "mayflyd listening on " + server.address();
  if (!server.http_address().empty()) line += ", http " + server.http_address();
  if (!server.health_address().empty()) line += ", health " + server.health_address();
  std::puts(line.c_str());
  std::fflush(stdout);
}

// Null without --snapshot_key_file.
absl::StatusOr<std::unique_ptr<SnapshotVault>> CreateVault(const SnapshotOptions& options,
                                                           const WallClock* clock,
                                                           const Logger* logger) {
  if (options.key_file.empty()) return nullptr;
  MAYFLY_ASSIGN_OR_RETURN(auto vault, SealingVault::Create(options, clock, logger));
  return vault;
}

int Run(const Config& config) {
  if (const absl::Status status = config.engine.Validate(); !status.ok()) {
    return Fail(kBadConfiguration, status);
  }
  StopSignals signals;
  const Logger logger(config.log_level, config.log_format);
  // A typing error should not have to wait for a model to load. Server::Start reads the files
  // again, and says so.
  const Logger quiet(LogLevel::kError, config.log_format);
  if (const auto security = Security::Create(config, &quiet); !security.ok()) {
    return Fail(kBadConfiguration, security.status());
  }
  const SystemWallClock wall_clock;
  auto vault = CreateVault(config.snapshots, &wall_clock, &logger);
  if (!vault.ok()) return Fail(kBadConfiguration, vault.status());
  const SteadyClock clock;
  EngineMetrics engine_metrics;
  auto engine = CreateEngine(config.engine, &engine_metrics, &logger, &clock);
  if (!engine.ok()) return Fail(kFailed, engine.status());
  const auto server = Server::Start(config, {.engine = engine->get(),
                                             .engine_metrics = &engine_metrics,
                                             .clock = &clock,
                                             .logger = &logger,
                                             .vault = vault->get()});
  if (absl::IsInvalidArgument(server.status())) return Fail(kBadConfiguration, server.status());
  if (!server.ok()) return Fail(kFailed, server.status());
  Announce(**server);
  const int status =
      ServeUntilStopped(server->get(), &signals, config.drain_timeout_seconds, &clock, &logger);
  // A second signal: at once means without taking anything down.
  if (status > 128) std::_Exit(status);
  (*server)->Stop();
  // Both may still answer sessions, which the server keeps the books of.
  engine->reset();
  vault->reset();
  return status;
}

int Main(const std::vector<std::string>& args) {
  QuietLibraries();
  const absl::StatusOr<Config> config = ParseConfig(args, ReadEnvironment(environ));
  if (!config.ok()) return Fail(kBadConfiguration, config.status());
  if (config->help) return std::fputs(ConfigHelp().c_str(), stdout) < 0 ? kFailed : 0;
  if (config->version) return std::printf("mayflyd %s\n", Version()) < 0 ? kFailed : 0;
  return Run(*config);
}

}  // namespace
}  // namespace mayfly

int main(int argc, char** argv) {
  mayfly::ShortenSpins(argv);
  return mayfly::Main(std::vector<std::string>(argv + 1, argv + argc));
}
