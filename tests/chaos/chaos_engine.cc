#include "tests/chaos/chaos_engine.h"

#include "tests/engine/tiny_engine.h"

namespace mayfly {
namespace {

class TinyChaosEngine final : public ChaosEngine {
 public:
  explicit TinyChaosEngine(int32_t rows) : tiny_({.rows = rows}) {}

  Engine& engine() override { return tiny_.loop(); }
  const EngineMetrics& metrics() const override { return tiny_.metrics(); }
  bool IsZero() const override { return tiny_.IsZero(); }

 private:
  TinyEngine tiny_;
};

}  // namespace

std::unique_ptr<ChaosEngine> CreateChaosEngine(int32_t rows) {
  return std::make_unique<TinyChaosEngine>(rows);
}

}  // namespace mayfly
