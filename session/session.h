#pragma once

// One client's life: takes its commands in order, decides what its row computes and when it learns, and
// answers with events in its Outbox. Created by SessionManager; held by it, by the RPC and by the
// engine (as the row's TokenSink) until the row is free. Thread-safe; nothing blocks.

#include <cstdint>
#include <memory>

#include "engine/engine.h"
#include "session/outbox.h"
#include "session/types.h"

namespace mayfly {

class Session : public TokenSink {
 public:
  // A command from the client, in the order in which they arrive. The first must be `open`.
  virtual void Handle(uint64_t request_id, SessionCommand command) = 0;
  // The client sends no more: the queued commands finish, then the session ends with OK.
  virtual void HalfClose() = 0;
  // Ends the session now. `status` is the stream's; the reason is counted.
  virtual void End(CloseReason reason, absl::Status status) = 0;
  virtual Outbox& outbox() = 0;
};

}  // namespace mayfly
