#include "tests/load/session_call.h"

#include <chrono>
#include <deque>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/session_stream.h"
#include "engine/base/mutex.h"
#include "grpcpp/client_context.h"
#include "mayfly/v1/inference_service.grpc.pb.h"

namespace mayfly::load {
namespace {

// One call: keeps itself until it is done, one read and one write at a time. gRPC's threads and the
// loop's.
class Call final : public grpc::ClientBidiReactor<v1::SessionRequest, v1::SessionResponse>,
                   public std::enable_shared_from_this<Call> {
 public:
  Call(const std::shared_ptr<grpc::Channel>& channel, const Clock* clock, EventLoop* loop,
       SessionTransport::Events events)
      : stub_(v1::InferenceService::NewStub(channel)),
        clock_(clock),
        loop_(loop),
        events_(std::move(events)) {}

  void Start(std::optional<double> deadline_seconds) {
    if (deadline_seconds) {
      context_.set_deadline(std::chrono::system_clock::now() +
                            std::chrono::duration_cast<std::chrono::system_clock::duration>(
                                std::chrono::duration<double>(*deadline_seconds)));
    }
    self_ = shared_from_this();
    stub_->async()->Session(&context_, this);
    // The loop's thread starts reads and writes too; held until the last read.
    AddHold();
    StartCall();
  }

  void Send(v1::SessionRequest request) {
    MutexLock lock(&mu_);
    requests_.push_back(std::move(request));
    WriteLocked();
  }

  void HalfClose() {
    MutexLock lock(&mu_);
    half_closed_ = true;
    WriteLocked();
  }

  void Read() {
    MutexLock lock(&mu_);
    ReadLocked();
  }

  void Vanish() {
    context_.TryCancel();
    MutexLock lock(&mu_);
    vanished_ = true;
    ReadLocked();
  }

  void OnReadDone(bool ok) noexcept override {
    const TimePoint now = clock_->Now();
    v1::SessionResponse response = std::move(response_);
    bool last = false;
    {
      MutexLock lock(&mu_);
      reading_ = false;
      last = !ok && !std::exchange(reads_ended_, true);
      if (vanished_) ReadLocked();
    }
    // From here on the loop's thread may read again.
    if (ok) {
      loop_->Post([self = shared_from_this(), response = std::move(response), now] {
        self->events_.on_response(response, now);
      });
    }
    if (last) RemoveHold();
  }

  void OnWriteDone(bool ok) noexcept override {
    MutexLock lock(&mu_);
    writing_ = false;
    requests_.pop_front();
    writes_ended_ = writes_ended_ || !ok;
    WriteLocked();
  }

  void OnDone(const grpc::Status& status) noexcept override {
    loop_->Post([self = std::move(self_), status, now = clock_->Now()] {
      self->events_.on_end(ToAbslStatus(status), now);
    });
  }

 private:
  void ReadLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (reading_ || reads_ended_) return;
    reading_ = true;
    response_.Clear();
    StartRead(&response_);
  }

  void WriteLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    // Without a read to come there is no hold, and the call may be gone.
    if (writing_ || writes_ended_ || reads_ended_) return;
    if (!requests_.empty()) {
      writing_ = true;
      StartWrite(&requests_.front());
    } else if (half_closed_) {
      writes_ended_ = true;
      StartWritesDone();
    }
  }

  const std::unique_ptr<v1::InferenceService::Stub> stub_;
  const Clock* const clock_;
  EventLoop* const loop_;
  const SessionTransport::Events events_;
  grpc::ClientContext context_;
  std::shared_ptr<Call> self_;
  // Owned by the read in flight.
  v1::SessionResponse response_;

  Mutex mu_;
  // The first is being written while `writing_`.
  std::deque<v1::SessionRequest> requests_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool writes_ended_ ABSL_GUARDED_BY(mu_) = false;
  bool half_closed_ ABSL_GUARDED_BY(mu_) = false;
  bool reading_ ABSL_GUARDED_BY(mu_) = false;
  bool reads_ended_ ABSL_GUARDED_BY(mu_) = false;
  bool vanished_ ABSL_GUARDED_BY(mu_) = false;
};

class GrpcTransport final : public SessionTransport {
 public:
  explicit GrpcTransport(std::shared_ptr<Call> call) : call_(std::move(call)) {}
  ~GrpcTransport() override { call_->Vanish(); }

  void Send(v1::SessionRequest request) override { call_->Send(std::move(request)); }
  void HalfClose() override { call_->HalfClose(); }
  void ReadNext() override { call_->Read(); }
  void Vanish() override { call_->Vanish(); }

 private:
  const std::shared_ptr<Call> call_;
};

}  // namespace

OpenTransport OverGrpc(std::vector<std::shared_ptr<grpc::Channel>> channels, const Clock* clock,
                       EventLoop* loop) {
  return [channels = std::move(channels), clock, loop, next = size_t{0}](
             std::optional<double> deadline_seconds,
             SessionTransport::Events events) mutable -> std::unique_ptr<SessionTransport> {
    const auto& channel = channels[next++ % channels.size()];
    const auto call = std::make_shared<Call>(channel, clock, loop, std::move(events));
    call->Start(deadline_seconds);
    return std::make_unique<GrpcTransport>(call);
  };
}

}  // namespace mayfly::load
