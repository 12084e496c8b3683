#pragma once

// A SessionTransport over gRPC's callback API: hundreds of streams share the library's few threads.
// What comes is noted with its time on those and handed to the loop.

#include <memory>
#include <vector>

#include "grpcpp/channel.h"
#include "tests/load/event_loop.h"
#include "tests/load/session_transport.h"

namespace mayfly::load {

// Takes the channels in turn. Clock and loop
// outlive every transport and the last event of each.
OpenTransport OverGrpc(std::vector<std::shared_ptr<grpc::Channel>> channels, const Clock* clock,
                       EventLoop* loop);

}  // namespace mayfly::load
