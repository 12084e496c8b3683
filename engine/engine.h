#pragma once

// The narrow waist between deciding and computing. A session decides what its row does next; the
// engine computes it and answers with events. Every call is thread-safe, returns at once and never
// waits for a device; results arrive at the row's TokenSink.
//
// Life of a row: Open -> RowOpened -> any number of Submit / Advance / Cancel -> Close ->
// RowClosed. Between its two ends a row belongs to one session. Events of a row arrive in order, on
// one thread.

#include <memory>

#include "absl/status/status.h"
#include "engine/types.h"

namespace mayfly {

// Where results go. Offer never blocks and never calls back into the engine while it holds a lock
// of its own. Called by the engine's delivery thread.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void Offer(EngineEvent event) = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;

  virtual const EngineInfo& info() const = 0;
  virtual int32_t free_rows() const = 0;
  // False once a device fault has outlived the call that met it.
  virtual bool healthy() const = 0;
  // Tokens come more slowly than some generating row wants (RowOptions), so nobody should begin to
  // learn: a chunk that is complete waits, grows, and is given up in the end.
  virtual bool defers_learning() const = 0;

  // Takes a free row and gives it a fresh adapter, or what it is to go on from: RowOpened, or
  // RowRefused (RESOURCE_EXHAUSTED: no row; INVALID_ARGUMENT: not the state of such a row; else
  // what the device said). UNAVAILABLE when the engine does not take work.
  virtual absl::Status Open(const RowOptions& options, std::shared_ptr<TokenSink> sink) = 0;

  // Adds work to the row's queue. A handle that is no longer valid is ignored: its owner has seen,
  // or will see, RowClosed.
  virtual void Submit(RowHandle row, WorkId id, RowWork work) = 0;

  // Turns text into tokens off the loop thread: Tokenized, independent of the row's queue.
  virtual void Tokenize(TextInput text, WorkId id, std::shared_ptr<TokenSink> sink) = 0;

  // Lets the row's generation run until the row holds `horizon` tokens of its stream. Never moves
  // back.
  virtual void Advance(RowHandle row, WorkId id, uint64_t horizon) = 0;

  // Ends a piece of work, waiting or running, at the next step; it answers
  // GenerationDone(kCancelled) or WorkFailed(CANCELLED), an update UpdateDone(kSkipped).
  virtual void Cancel(RowHandle row, WorkId id) = 0;

  // Ends all work of the row, zeroes it and frees it: RowClosed, and no event after it.
  virtual void Close(RowHandle row) = 0;
};

}  // namespace mayfly
