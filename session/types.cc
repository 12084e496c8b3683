#include "session/types.h"

namespace mayfly {

const char* CloseReasonName(CloseReason reason) {
  switch (reason) {
    case CloseReason::kClosed: return "closed";
    case CloseReason::kHalfClosed: return "half_closed";
    case CloseReason::kCancelled: return "cancelled";
    case CloseReason::kDeadline: return "deadline";
    case CloseReason::kInvalid: return "invalid";
    case CloseReason::kNoRow: return "no_row";
    case CloseReason::kIdle: return "idle";
    case CloseReason::kAge: return "age";
    case CloseReason::kDrained: return "drained";
    case CloseReason::kEngineFailed: return "engine_failed";
    case CloseReason::kSlowReader: return "slow_reader";
    case CloseReason::kTerminated: return "terminated";
  }
  return "unknown";
}

}  // namespace mayfly
