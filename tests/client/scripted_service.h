#pragma once

// A server that says what a test tells it to: InferenceService in this process, on a port that the
// system chooses. Owned by the test; the script runs on a gRPC thread, one at a time.

#include <functional>
#include <memory>
#include <string>

#include "google/protobuf/text_format.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "mayfly/v1/inference_service.grpc.pb.h"

namespace mayfly {

// The server's end of one session.
class ScriptedSession {
 public:
  using Stream = grpc::ServerReaderWriter<v1::SessionResponse, v1::SessionRequest>;

  explicit ScriptedSession(Stream* stream) : stream_(stream) {}

  // The next request; one without a command when the client sends no more.
  v1::SessionRequest Next() {
    v1::SessionRequest request;
    if (!stream_->Read(&request)) request.Clear();
    last_id_ = request.request_id();
    return request;
  }

  // Sends an event, as text: "delta { text: 'a' }". Answers the last request unless `id` says
  // otherwise.
  void Send(const std::string& event) { SendTo(last_id_, event); }
  void SendUnasked(const std::string& event) { SendTo(0, event); }
  void SendTo(uint64_t id, const std::string& event) {
    v1::SessionResponse response;
    EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(event, &response)) << event;
    response.set_request_id(id);
    stream_->Write(response);
  }

  // Takes the open and accepts it, with chunks of four tokens.
  v1::Open AcceptOpen() {
    const v1::SessionRequest request = Next();
    EXPECT_TRUE(request.has_open());
    Send(
        "opened { session_id: 's1' model: 'tiny' adaptation { preset: PRESET_BALANCED "
        "rank: 16 chunk_tokens: 4 } }");
    return request.open();
  }

  // Takes an append and says that it is done.
  v1::Append AcceptAppend() {
    const v1::SessionRequest request = Next();
    EXPECT_TRUE(request.has_append());
    Send("appended { done: true tokens: 3 window_position: 3 }");
    return request.append();
  }

  // Takes the close, or the end of the requests, and says goodbye.
  void AcceptEnd() {
    const v1::SessionRequest request = Next();
    EXPECT_TRUE(request.has_close() ||
                request.command_case() == v1::SessionRequest::COMMAND_NOT_SET);
    Send("closed { reason: 'closed' updates: 1 updates_applied: 1 freed_bytes: 64 }");
  }

 private:
  Stream* const stream_;
  uint64_t last_id_ = 0;
};

class ScriptedService final : public v1::InferenceService::Service {
 public:
  using Script = std::function<grpc::Status(ScriptedSession&)>;

  explicit ScriptedService(Script script, v1::GetServerInfoResponse info = {})
      : script_(std::move(script)), info_(std::move(info)) {
    grpc::ServerBuilder builder;
    int port = 0;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    address_ = "127.0.0.1:" + std::to_string(port);
  }
  ~ScriptedService() override { Stop(); }

  void Stop() { server_->Shutdown(); }

  const std::string& address() const { return address_; }
  std::shared_ptr<grpc::Channel> Channel() const {
    return grpc::CreateChannel(address_, grpc::InsecureChannelCredentials());
  }

 private:
  grpc::Status Session(grpc::ServerContext*, ScriptedSession::Stream* stream) override {
    ScriptedSession session(stream);
    return script_(session);
  }
  grpc::Status GetServerInfo(grpc::ServerContext*, const v1::GetServerInfoRequest*,
                             v1::GetServerInfoResponse* response) override {
    *response = info_;
    return grpc::Status::OK;
  }

  const Script script_;
  const v1::GetServerInfoResponse info_;
  std::unique_ptr<grpc::Server> server_;
  std::string address_;
};

}  // namespace mayfly
