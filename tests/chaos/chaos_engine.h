#pragma once

// The real engine on a tiny model, for a test that also speaks gRPC: libtorch's headers and
// Protobuf's do not go into one file.

#include <memory>

#include "engine/engine.h"
#include "engine/metrics.h"

namespace mayfly {

class ChaosEngine {
 public:
  virtual ~ChaosEngine() = default;
  virtual Engine& engine() = 0;
  virtual const EngineMetrics& metrics() const = 0;
  // Whether no byte of any session is left in any pool; asked while the engine does nothing.
  virtual bool IsZero() const = 0;
};

std::unique_ptr<ChaosEngine> CreateChaosEngine(int32_t rows);

}  // namespace mayfly
