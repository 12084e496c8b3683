#include "client/session_stream.h"

#include <zlib.h>

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace mayfly {
namespace {

// Of a snapshot, in one message: within a server's default --max_message_bytes.
constexpr size_t kRestoreBytes = 512 << 10;

absl::Status CheckSum(const v1::Exported& part) {
  const auto* data = reinterpret_cast<const Bytef*>(part.data().data());
  if (crc32_z(0, data, part.data().size()) == part.crc32()) return absl::OkStatus();
  return absl::DataLossError(
      absl::StrCat(part.file(), " was damaged on the way, at byte ", part.offset()));
}

}  // namespace

absl::Status ToAbslStatus(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

void AddPart(const v1::Appended& part, v1::Appended* all) {
  all->clear_nll();
  all->clear_base_nll();
  all->MergeFrom(part);
}

SessionStream::SessionStream(std::shared_ptr<grpc::ChannelInterface> channel, Listeners listeners)
    : stub_(v1::InferenceService::NewStub(std::move(channel))), listeners_(std::move(listeners)) {
  stream_ = stub_->Session(&context_);
}

SessionStream::~SessionStream() {
  if (ended()) return;
  context_.TryCancel();
  EndStatus().IgnoreError();
}

absl::StatusOr<std::unique_ptr<SessionStream>> SessionStream::Open(
    std::shared_ptr<grpc::ChannelInterface> channel, v1::Open open, Listeners listeners,
    absl::string_view snapshot) {
  std::unique_ptr<SessionStream> session(
      new SessionStream(std::move(channel), std::move(listeners)));
  v1::SessionRequest request;
  *request.mutable_open() = std::move(open);
  if (!snapshot.empty()) request.mutable_open()->set_snapshot_bytes(snapshot.size());
  const absl::StatusOr<uint64_t> id = session->Send(&request);
  for (; !snapshot.empty(); snapshot.remove_prefix(std::min(kRestoreBytes, snapshot.size()))) {
    v1::SessionRequest part;
    part.mutable_restore()->set_data(std::string(snapshot.substr(0, kRestoreBytes)));
    // The stream may have ended; how, is told below.
    session->Send(&part).status().IgnoreError();
  }
  MAYFLY_RETURN_IF_ERROR(session->Await(id, [&](const v1::SessionResponse& response) {
    session->opened_ = response.opened();
    return response.has_opened();
  }));
  return session;
}

absl::StatusOr<v1::Appended> SessionStream::Append(v1::Append append,
                                                   const ProgressCallback& on_progress) {
  v1::SessionRequest request;
  *request.mutable_append() = std::move(append);
  v1::Appended all;
  MAYFLY_RETURN_IF_ERROR(Call(std::move(request), [&](const v1::SessionResponse& response) {
    if (on_progress) on_progress(response.appended());
    AddPart(response.appended(), &all);
    return response.appended().done();
  }));
  return all;
}

absl::StatusOr<v1::Appended> SessionStream::AppendText(std::string text) {
  v1::Append append;
  append.set_text(std::move(text));
  return Append(std::move(append));
}

absl::StatusOr<v1::Generated> SessionStream::Generate(v1::Generate generate,
                                                      const DeltaCallback& on_delta) {
  v1::SessionRequest request;
  *request.mutable_generate() = std::move(generate);
  v1::Generated generated;
  MAYFLY_RETURN_IF_ERROR(Call(std::move(request), [&](const v1::SessionResponse& response) {
    if (response.has_delta() && on_delta) on_delta(response.delta());
    generated = response.generated();
    return response.has_generated();
  }));
  return generated;
}

absl::StatusOr<v1::Adapted> SessionStream::Adapt(v1::Adapt adapt) {
  v1::SessionRequest request;
  *request.mutable_adapt() = std::move(adapt);
  v1::Adapted adapted;
  MAYFLY_RETURN_IF_ERROR(Call(std::move(request), [&](const v1::SessionResponse& response) {
    adapted = response.adapted();
    return response.has_adapted();
  }));
  return adapted;
}

absl::StatusOr<v1::Exported> SessionStream::Export(const v1::Export& request,
                                                   const ExportCallback& on_part) {
  v1::SessionRequest message;
  *message.mutable_export_() = request;
  v1::Exported last;
  absl::Status status;
  MAYFLY_RETURN_IF_ERROR(Call(std::move(message), [&](const v1::SessionResponse& response) {
    // What comes after an error is read and dropped.
    if (status.ok()) status = CheckSum(response.exported());
    if (status.ok() && !response.exported().file().empty()) status = on_part(response.exported());
    last = response.exported();
    return last.done();
  }));
  MAYFLY_RETURN_IF_ERROR(status);
  return last;
}

absl::Status SessionStream::Cancel() {
  v1::SessionRequest request;
  request.mutable_cancel();
  return Send(&request).status();
}

absl::StatusOr<v1::Closed> SessionStream::Finish() {
  {
    MutexLock lock(&write_mu_);
    if (!std::exchange(sent_all_, true)) stream_->WritesDone();
  }
  return AwaitClosed();
}

absl::StatusOr<v1::Closed> SessionStream::Close() {
  v1::SessionRequest request;
  request.mutable_close();
  // A failed write means that the stream is ending already; AwaitClosed learns how.
  Send(&request).status().IgnoreError();
  return AwaitClosed();
}

bool SessionStream::ended() const {
  MutexLock lock(&write_mu_);
  return ended_;
}

absl::Status SessionStream::Call(v1::SessionRequest request, const ResponseHandler& handle) {
  return Await(Send(&request), handle);
}

absl::Status SessionStream::Await(const absl::StatusOr<uint64_t>& id,
                                  const ResponseHandler& handle) {
  // The server's reason for ending the stream says more than the failed write.
  if (!id.ok()) return EndStatus();
  while (true) {
    MAYFLY_ASSIGN_OR_RETURN(const v1::SessionResponse response, Receive());
    // Answers to a cancel: what matters is how its target ends.
    if (response.request_id() != *id) continue;
    if (response.has_error()) {
      return absl::Status(static_cast<absl::StatusCode>(response.error().code()),
                          response.error().message());
    }
    if (handle(response)) return absl::OkStatus();
  }
}

absl::StatusOr<uint64_t> SessionStream::Send(v1::SessionRequest* request) {
  MutexLock lock(&write_mu_);
  request->set_request_id(++last_request_id_);
  if (sent_all_ || !stream_->Write(*request)) {
    return absl::UnavailableError("the session has ended");
  }
  return last_request_id_;
}

absl::StatusOr<v1::SessionResponse> SessionStream::Receive() {
  v1::SessionResponse response;
  while (stream_->Read(&response)) {
    if (!Listen(response)) return response;
  }
  return EndStatus();
}

bool SessionStream::Listen(const v1::SessionResponse& response) {
  switch (response.event_case()) {
    case v1::SessionResponse::kUpdate:
      if (listeners_.on_update) listeners_.on_update(response.update());
      return true;
    case v1::SessionResponse::kDraining:
      if (listeners_.on_draining) listeners_.on_draining(response.draining());
      return true;
    case v1::SessionResponse::kClosed: closed_ = response.closed(); return true;
    default: return false;
  }
}

absl::StatusOr<v1::Closed> SessionStream::AwaitClosed() {
  while (!ended() && Receive().ok()) continue;
  if (!final_status_.ok()) return ToAbslStatus(final_status_);
  if (!closed_) return absl::UnavailableError("the server ended the session without a last word");
  return *closed_;
}

absl::Status SessionStream::EndStatus() {
  bool first = false;
  {
    MutexLock lock(&write_mu_);
    first = !std::exchange(ended_, true);
    sent_all_ = true;
  }
  if (first) {
    for (v1::SessionResponse rest; stream_->Read(&rest);) Listen(rest);
    final_status_ = stream_->Finish();
  }
  if (!final_status_.ok()) return ToAbslStatus(final_status_);
  return absl::UnavailableError(
      absl::StrCat("the server ended the session", closed_ ? ": " + closed_->reason() : ""));
}

}  // namespace mayfly
