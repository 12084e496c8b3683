#include "server/session_reactor.h"

#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "grpcpp/impl/codegen/proto_utils.h"
#include "mayfly/v1/session.pb.h"
#include "server/convert.h"
#include "server/grpc_status.h"

namespace mayfly {
namespace {

constexpr char kFreedBytesTrailer[] = "mayfly-freed-bytes";

struct Command {
  uint64_t request_id = 0;
  SessionCommand body;
};

// A message that cannot be parsed keeps its request_id where that came before the fault.
Command Parse(grpc::ByteBuffer* bytes) {
  v1::SessionRequest request;
  const bool parsed =
      grpc::SerializationTraits<v1::SessionRequest>::Deserialize(bytes, &request).ok();
  if (parsed) return {request.request_id(), ToCommand(request)};
  return {request.request_id(), InvalidCommand{absl::InvalidArgumentError(
                                    "the message is not a SessionRequest, or a string in it is not "
                                    "valid UTF-8")}};
}

grpc::ByteBuffer Serialize(const SessionEvent& event) {
  grpc::ByteBuffer bytes;
  bool owned = false;
  // Fails only beyond 2 GiB, far above any event.
  (void)grpc::SerializationTraits<v1::SessionResponse>::Serialize(ToResponse(event), &bytes,
                                                                  &owned);
  return bytes;
}

}  // namespace

SessionReactor* SessionReactor::Start(grpc::CallbackServerContext* context, ClientIdentity client,
                                      SessionManager* manager, ServerMetrics* metrics) {
  const std::shared_ptr<SessionReactor> reactor(new SessionReactor(context, metrics));
  reactor->self_ = reactor;
  // Until the service has returned the reactor, the outbox's calls find the role taken.
  reactor->session_ =
      manager->Create(std::move(client), [weak = std::weak_ptr<SessionReactor>(reactor)] {
        if (const std::shared_ptr<SessionReactor> alive = weak.lock()) alive->Pump();
      });
  reactor->ReadNext();
  reactor->WriteNext();
  return reactor.get();
}

SessionReactor::SessionReactor(grpc::CallbackServerContext* context, ServerMetrics* metrics)
    : context_(context),
      metrics_(metrics),
      started_(std::chrono::system_clock::now()),
      writing_(true) {}

void SessionReactor::OnReadDone(bool ok) noexcept {
  if (!ok) return OnReadsEnded();
  Command command = Parse(&read_buffer_);
  session_->Handle(command.request_id, std::move(command.body));
  {
    MutexLock lock(&mu_);
    reading_ = false;
  }
  ReadNext();
}

// gRPC ends the reads of a client that has finished sending and of one that is gone in the same
// way, and tells of the second, by OnCancel, only just after. So we ask once more: that answer is
// queued behind the news, and by then a cancelled call knows that it is one.
void SessionReactor::OnReadsEnded() {
  if (std::exchange(reads_ended_, true)) {
    if (!context_->IsCancelled()) session_->HalfClose();
    return;
  }
  MutexLock lock(&mu_);
  if (!leaving_ && !finished_) StartRead(&read_buffer_);
}

void SessionReactor::ReadNext() {
  const bool room = session_->outbox().room() > 0;
  MutexLock lock(&mu_);
  if (!room || reading_ || leaving_ || finished_) return;
  reading_ = true;
  StartRead(&read_buffer_);
}

void SessionReactor::Pump() {
  {
    MutexLock lock(&mu_);
    pumped_ = true;
    if (writing_ || finished_) return;
    writing_ = true;
  }
  WriteNext();
}

void SessionReactor::WriteNext() {
  for (;;) {
    {
      MutexLock lock(&mu_);
      pumped_ = false;
    }
    const Outbox::Item item = session_->outbox().Take();
    if (item.event) {
      write_buffer_ = Serialize(*item.event);
      const auto* closed = std::get_if<ClosedEvent>(&item.event->body);
      if (closed != nullptr) freed_bytes_ = closed->freed_bytes;
      ReadNext();
    }
    MutexLock lock(&mu_);
    if (leaving_) return FinishLocked(*leaving_);
    if (item.event) return StartWrite(&write_buffer_);
    if (item.final_status) return FinishLocked(*item.final_status);
    if (!pumped_) {
      writing_ = false;
      return;
    }
  }
}

void SessionReactor::OnWriteDone(bool ok) noexcept {
  if (!ok) Leave();
  WriteNext();
}

void SessionReactor::OnCancel() noexcept { Leave(); }

void SessionReactor::Leave() {
  const bool deadline = PastDeadline();
  const absl::Status status = deadline ? absl::DeadlineExceededError("the call's deadline passed")
                                       : absl::CancelledError("the client cancelled or vanished");
  {
    MutexLock lock(&mu_);
    if (leaving_ || finished_) return;
    leaving_ = status;
    // Otherwise the writer finishes the call: never with a write in flight.
    if (!writing_) FinishLocked(status);
  }
  session_->outbox().Abandon();
  session_->End(deadline ? CloseReason::kDeadline : CloseReason::kCancelled, status);
}

// The client's timer starts before ours and its length is rounded up on the wire, by up to a
// percent: most calls that die of their deadline are cancelled by the client just before our own
// timer runs out.
bool SessionReactor::PastDeadline() const {
  const auto deadline = context_->deadline();
  if (deadline == std::chrono::system_clock::time_point::max()) return false;
  const auto slack = std::chrono::milliseconds(100) + (deadline - started_) / 100;
  return std::chrono::system_clock::now() + slack >= deadline;
}

void SessionReactor::FinishLocked(const absl::Status& status) {
  if (finished_) return;
  finished_ = true;
  if (freed_bytes_) context_->AddTrailingMetadata(kFreedBytesTrailer, absl::StrCat(*freed_bytes_));
  const grpc::Status final_status = ToGrpcStatus(status);
  metrics_->CountHandled(RpcMethod::kSession, final_status);
  Finish(final_status);
}

void SessionReactor::OnDone() noexcept {
  // A thread that is inside Pump may hold the reactor a little longer; it finds it finished.
  const std::shared_ptr<SessionReactor> last = std::move(self_);
}

}  // namespace mayfly
