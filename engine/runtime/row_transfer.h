#pragma once

// Takes a row to host memory and back (engine/row_state.h). Called by the engine loop's thread
// between two pieces of the row's work, while no update holds the row. Throws what ATen throws.

#include "absl/status/status.h"
#include "engine/pool/adapter_pool.h"
#include "engine/pool/kv_pool.h"
#include "engine/row_state.h"
#include "engine/runtime/sequence.h"

namespace mayfly {

RowState ExportRow(const Sequence& sequence, const KvPool& kv, const AdapterPool& adapters);

// The masters alone, as PEFT names and shapes them: A [rank, in], B [out, rank].
RowState ExportAdapter(const Sequence& sequence, const AdapterPool& adapters);

// Puts `state` into the row and the sequence, whose options are set. INVALID_ARGUMENT, with nothing
// written, where it is not the state of such a row. REQUIRES: the row is zero.
absl::Status RestoreRow(const RowState& state, Sequence* sequence, KvPool* kv,
                        AdapterPool* adapters);

}  // namespace mayfly
