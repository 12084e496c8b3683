#include "tests/support/in_process_server.h"

#include <chrono>

#include "google/protobuf/text_format.h"
#include "grpcpp/create_channel.h"
#include "gtest/gtest.h"
#include "tests/support/eventually.h"
#include "tests/support/status_matchers.h"

namespace mayfly {

Config InProcessServer::DefaultConfig() {
  const auto config =
      ParseConfig({"--model=/none", "--listen=127.0.0.1:0",
                   "--http_listen=", "--health_listen=127.0.0.1:0", "--log_level=error",
                   "--max_generate_tokens=1000000", "--chunk_tokens=16", "--context_tokens=16"},
                  {});
  EXPECT_THAT(config, IsOk());
  return *config;
}

InProcessServer::InProcessServer(const Config& config)
    : logger_(config.log_level, config.log_format) {
  engine_->RunInBackground();
  auto server = Server::Start(config, {.engine = engine_.get(),
                                       .engine_metrics = &engine_metrics_,
                                       .clock = &clock_,
                                       .logger = &logger_});
  EXPECT_THAT(server, IsOk());
  if (server.ok()) server_ = *std::move(server);
}

InProcessServer::~InProcessServer() {
  if (server_ != nullptr) server_->Stop();
  engine_.reset();
}

std::shared_ptr<grpc::Channel> InProcessServer::Connect() const {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  return grpc::CreateCustomChannel(server_->address(), grpc::InsecureChannelCredentials(),
                                   arguments);
}

bool InProcessServer::AllRowsFree() const {
  return Eventually([this] { return engine_->free_rows() == engine_->info().rows; });
}

bool InProcessServer::HasClosed(CloseReason reason, uint64_t count) const {
  const Counter& closed = server_->session_metrics().closed[static_cast<size_t>(reason)];
  return Eventually([&] { return closed.value() >= count; }) && closed.value() == count;
}

TestStream::TestStream(const std::shared_ptr<grpc::Channel>& channel,
                       std::optional<double> deadline_seconds)
    : stub_(v1::InferenceService::NewStub(channel)), stream_([&] {
        if (deadline_seconds) {
          const auto wait = std::chrono::duration<double>(*deadline_seconds);
          context_.set_deadline(
              std::chrono::system_clock::now() +
              std::chrono::duration_cast<std::chrono::system_clock::duration>(wait));
        }
        return stub_->Session(&context_);
      }()) {}

TestStream::~TestStream() {
  if (finished_) return;
  Cancel();
  Finish();
}

bool TestStream::Send(const std::string& request) {
  v1::SessionRequest message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(request, &message)) << request;
  return Send(message);
}

std::optional<v1::SessionResponse> TestStream::Next() {
  v1::SessionResponse response;
  if (!stream_->Read(&response)) return std::nullopt;
  return response;
}

std::optional<v1::SessionResponse> TestStream::Next(v1::SessionResponse::EventCase kind) {
  while (auto response = Next()) {
    if (response->event_case() == kind) return response;
  }
  return std::nullopt;
}

grpc::Status TestStream::Finish() {
  while (Next()) {
  }
  finished_ = true;
  return stream_->Finish();
}

bool TestStream::Open() {
  return Send("request_id: 1 open {}") && Next(v1::SessionResponse::kOpened).has_value();
}

}  // namespace mayfly
