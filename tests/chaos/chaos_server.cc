#include "tests/chaos/chaos_server.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/support/status_matchers.h"

namespace mayfly {

ChaosServerTest::~ChaosServerTest() {
  if (server_ != nullptr) server_->Stop();
  engine_.reset();
  vault_.reset();
}

Config ChaosServerTest::Configured(const std::string& store,
                                   const std::vector<std::string>& flags) const {
  dir_.Write("keys", std::string(64, '7') + "\n");
  std::vector<std::string> all = {"--model=/none",
                                  "--listen=127.0.0.1:0",
                                  "--http_listen=",
                                  "--health_listen=",
                                  "--log_level=error",
                                  "--chunk_tokens=16",
                                  "--context_tokens=16",
                                  "--rank=4",
                                  absl::StrCat("--snapshot_key_file=", dir_ / "keys"),
                                  absl::StrCat("--snapshot_store=", store)};
  all.insert(all.end(), flags.begin(), flags.end());
  const auto config = ParseConfig(all, {});
  EXPECT_THAT(config, IsOk());
  return *config;
}

void ChaosServerTest::Start(const Config& config) {
  auto vault = SealingVault::Create(config.snapshots, &wall_clock_, &log_);
  ASSERT_THAT(vault, IsOk());
  vault_ = *std::move(vault);
  auto server = Server::Start(config, {.engine = &engine_->engine(),
                                       .engine_metrics = &engine_->metrics(),
                                       .clock = &clock_,
                                       .logger = &log_,
                                       .vault = vault_.get()});
  ASSERT_THAT(server, IsOk());
  server_ = *std::move(server);
}

}  // namespace mayfly
