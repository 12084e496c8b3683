#pragma once

// A whole server on the loopback in front of a FakeEngine, and a client's end of one of its
// streams.

#include <memory>
#include <optional>
#include <string>

#include "engine/base/log.h"
#include "engine/metrics.h"
#include "grpcpp/channel.h"
#include "grpcpp/client_context.h"
#include "mayfly/v1/inference_service.grpc.pb.h"
#include "server/server.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_engine.h"

namespace mayfly {

class InProcessServer {
 public:
  // A fake with two rows; gRPC and health on ports of the system's choice; only errors are logged.
  // No HTTP: civetweb takes two seconds to stop.
  static Config DefaultConfig();

  explicit InProcessServer(const Config& config = DefaultConfig());
  ~InProcessServer();

  FakeEngine& engine() { return *engine_; }
  FakeClock& clock() { return clock_; }
  Server& server() { return *server_; }

  // A new connection, shared with nobody.
  std::shared_ptr<grpc::Channel> Connect() const;

  // Waits until no row is taken.
  bool AllRowsFree() const;
  // Waits until `count` streams have ended for this reason.
  bool HasClosed(CloseReason reason, uint64_t count) const;

 private:
  std::unique_ptr<FakeEngine> engine_ = std::make_unique<FakeEngine>();
  FakeClock clock_;
  const Logger logger_;
  EngineMetrics engine_metrics_;
  std::unique_ptr<Server> server_;
};

// One Session call, used by one thread. Texts are messages in protobuf's text format.
class TestStream {
 public:
  explicit TestStream(const std::shared_ptr<grpc::Channel>& channel,
                      std::optional<double> deadline_seconds = std::nullopt);
  // Cancels the call if it was not finished.
  ~TestStream();

  bool Send(const std::string& request);
  bool Send(const v1::SessionRequest& request) { return stream_->Write(request); }
  void HalfClose() { stream_->WritesDone(); }
  void Cancel() { context_.TryCancel(); }

  // The next event; nothing when the stream has ended.
  std::optional<v1::SessionResponse> Next();
  // The next event of this kind, past all others.
  std::optional<v1::SessionResponse> Next(v1::SessionResponse::EventCase kind);
  // Reads to the end and returns the call's status.
  grpc::Status Finish();

  // Opens the session; true when the server says so.
  bool Open();

  const grpc::ClientContext& context() const { return context_; }

 private:
  grpc::ClientContext context_;
  const std::unique_ptr<v1::InferenceService::Stub> stub_;
  const std::unique_ptr<grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionResponse>> stream_;
  bool finished_ = false;
};

}  // namespace mayfly
