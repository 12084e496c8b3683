#pragma once

// All of a session, so that it goes on in another process as if nothing had happened: its options,
// its place in the stream, what it is about to learn, and its row. Encoded little-endian, without
// padding, the row's tensors last. Pure; any thread.
//
// Whoever decodes one trusts nothing: bytes from anywhere give a snapshot or an error. That it fits
// the engine is Check's to say.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/types.h"
#include "session/row_planner.h"
#include "session/types.h"

namespace mayfly {

struct Snapshot {
  // The model that computed it, and in which number type.
  uint64_t model_fingerprint = 0;
  std::string dtype;
  std::string label;
  int32_t window_tokens = 0;
  uint64_t seed = 0;
  SamplingOptions sampling;
  Usage usage;
  uint64_t updates = 0;
  uint64_t updates_applied = 0;
  // No token can be taken before the window was computed again.
  bool window_broken = false;
  RowPlanner::State planner;
  std::shared_ptr<const RowState> row;
};

// REQUIRES: snapshot.row.
std::string EncodeSnapshot(const Snapshot& snapshot);
// INVALID_ARGUMENT where the bytes are no snapshot, or one of a later version.
absl::StatusOr<Snapshot> DecodeSnapshot(absl::string_view bytes);

// Whether a session can go on from it on this engine: FAILED_PRECONDITION for another model or
// type, INVALID_ARGUMENT where an option is beyond the engine's limits or the parts contradict each
// other.
absl::Status CheckSnapshot(const Snapshot& snapshot, const EngineInfo& engine);

}  // namespace mayfly
