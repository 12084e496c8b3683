#pragma once

// One Session RPC: reads commands into a Session and writes its outbox to the client, one read and
// one write at a time, and finishes the call exactly once. Reactions run on gRPC's threads, several
// at once; the outbox calls from any thread. The call owns the reactor until OnDone; whoever calls
// in from outside holds it for the length of that call. Nothing here waits.
//
// Messages are read as bytes and parsed here: gRPC itself reports a message that cannot be parsed
// (invalid UTF-8, say) as the end of the client's stream.

#include <chrono>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "engine/base/mutex.h"
#include "grpcpp/server_context.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "server/server_metrics.h"
#include "session/session_manager.h"

namespace mayfly {

class SessionReactor final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                             public std::enable_shared_from_this<SessionReactor> {
 public:
  // Starts a session for the call `context` of `client` and returns the reactor that serves it.
  static SessionReactor* Start(grpc::CallbackServerContext* context, ClientIdentity client,
                               SessionManager* manager, ServerMetrics* metrics);

  void OnReadDone(bool ok) noexcept override;
  void OnWriteDone(bool ok) noexcept override;
  void OnCancel() noexcept override;
  void OnDone() noexcept override;

 private:
  SessionReactor(grpc::CallbackServerContext* context, ServerMetrics* metrics);

  // The session's outbox has something to take.
  void Pump();
  // Writes what comes next. The caller has the writer's role: it set `writing_`.
  void WriteNext();
  // The client sends no more, or is gone.
  void OnReadsEnded();
  // Reads the next command unless the outbox is full: a client that does not listen is not heard.
  void ReadNext();
  // The client is gone: ends the session, and the call as soon as no write is in flight.
  void Leave();
  void FinishLocked(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // Did the call's deadline end it, rather than its client?
  bool PastDeadline() const;

  grpc::CallbackServerContext* const context_;
  ServerMetrics* const metrics_;
  const std::chrono::system_clock::time_point started_;
  std::shared_ptr<Session> session_;
  // Keeps the reactor until OnDone.
  std::shared_ptr<SessionReactor> self_;

  // Owned by whoever reads.
  grpc::ByteBuffer read_buffer_;
  bool reads_ended_ = false;
  // Owned by whoever has the writer's role.
  grpc::ByteBuffer write_buffer_;
  std::optional<uint64_t> freed_bytes_;

  Mutex mu_;
  bool reading_ ABSL_GUARDED_BY(mu_) = false;
  // A write is in flight, or a thread is about to start one.
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  // The outbox called while somebody else had the writer's role.
  bool pumped_ ABSL_GUARDED_BY(mu_) = false;
  // The call's end, once the client is gone.
  std::optional<absl::Status> leaving_ ABSL_GUARDED_BY(mu_);
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace mayfly
