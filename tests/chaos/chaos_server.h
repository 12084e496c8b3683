#pragma once

// The real server on the real engine, with a vault and a store that are real too: what whole-server
// tests stand on. Starts when the test says so, and is taken down in the right order.

#include <memory>
#include <string>
#include <vector>

#include "engine/base/log.h"
#include "engine/base/wall_clock.h"
#include "gtest/gtest.h"
#include "server/server.h"
#include "server/snapshots/sealing_vault.h"
#include "tests/chaos/chaos_engine.h"
#include "tests/support/fake_clock.h"
#include "tests/support/temp_dir.h"

namespace mayfly {

class ChaosServerTest : public testing::Test {
 protected:
  explicit ChaosServerTest(int32_t rows) : engine_(CreateChaosEngine(rows)) {}
  ~ChaosServerTest() override;

  // A tiny session's options and snapshots kept in `store`; `flags` beside those.
  Config Configured(const std::string& store, const std::vector<std::string>& flags) const;
  void Start(const Config& config);

  const Logger log_{LogLevel::kError, LogFormat::kText};
  const SystemWallClock wall_clock_;
  FakeClock clock_;
  TempDir dir_;
  std::unique_ptr<ChaosEngine> engine_;
  std::unique_ptr<SealingVault> vault_;
  std::unique_ptr<Server> server_;
};

}  // namespace mayfly
