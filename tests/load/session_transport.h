#pragma once

// The client's end of one stream, without a word about gRPC: a real call, or a test's script. Owned
// by its StreamActor; called, and calls, on the loop's thread.

#include <functional>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "engine/base/clock.h"
#include "mayfly/v1/session.pb.h"

namespace mayfly::load {

class SessionTransport {
 public:
  // What comes from the server, with the time at which it did. Nothing follows `on_end`.
  struct Events {
    std::function<void(const v1::SessionResponse&, TimePoint)> on_response;
    std::function<void(const absl::Status&, TimePoint)> on_end;
  };

  virtual ~SessionTransport() = default;

  // Behind those that were sent before.
  virtual void Send(v1::SessionRequest request) = 0;
  // Nothing more is sent.
  virtual void HalfClose() = 0;
  // Asks for one response. The stream's end is heard only while one is asked for.
  virtual void ReadNext() = 0;
  // Ends the call at once, without a word to the session; its end is heard in any case.
  virtual void Vanish() = 0;
};

// Begins a call, with a deadline that many seconds away if there is one.
using OpenTransport = std::function<std::unique_ptr<SessionTransport>(
    std::optional<double> deadline_seconds, SessionTransport::Events)>;

}  // namespace mayfly::load
