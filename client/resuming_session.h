#pragma once

// A session that outlives its server. Where a server that drains hands the session over, this one
// opens it on another and goes on with the command in hand, so that its user sees one stream: no
// token is lost or repeated, and the adapter is the one that it was. Everything else is as with
// SessionStream, threads included; without ResumeOptions::enabled it is nothing but one.
//
// What it cannot know stays as it is: a server that dies without a word takes its sessions with it.

#include <cstdint>
#include <functional>
#include <memory>
#include <random>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/session_stream.h"
#include "engine/base/mutex.h"

namespace mayfly {

struct ResumeOptions {
  bool enabled = false;
  // Between two attempts it waits for a random time below a bound that doubles each time, from
  // first to longest ("full jitter"), so that those a server has let go do not come back at once.
  double first_wait_seconds = 0.1;
  double longest_wait_seconds = 5;
  // All waits together; then it gives up. Snapshots expire too.
  double give_up_after_seconds = 60;
  std::function<void(double seconds)> sleep = {};  // empty: sleeps
  uint64_t seed = 0;                               // 0: random
};

class ResumingSession {
 public:
  using Connect = std::function<absl::StatusOr<std::shared_ptr<grpc::ChannelInterface>>()>;

  // `connect` is asked once for each attempt to open.
  static absl::StatusOr<std::unique_ptr<ResumingSession>> Open(Connect connect,
                                                               const v1::Open& open,
                                                               SessionStream::Listeners listeners,
                                                               ResumeOptions options,
                                                               absl::string_view snapshot = {});

  // Of the server that the session is on now.
  const v1::Opened& opened() const { return stream_->opened(); }
  // How often it has moved.
  int moves() const { return moves_; }

  absl::StatusOr<v1::Appended> Append(v1::Append append,
                                      const SessionStream::ProgressCallback& on_progress = {});
  absl::StatusOr<v1::Appended> AppendText(std::string text);
  absl::StatusOr<v1::Generated> Generate(v1::Generate generate,
                                         const SessionStream::DeltaCallback& on_delta);
  absl::StatusOr<v1::Adapted> Adapt(v1::Adapt adapt);
  // From the beginning again where the session has moved meanwhile: `begin` is called before the
  // first part, each time.
  absl::StatusOr<v1::Exported> Export(const v1::Export& request, const std::function<void()>& begin,
                                      const SessionStream::ExportCallback& on_part);
  absl::Status Cancel();
  absl::StatusOr<v1::Closed> Finish();
  absl::StatusOr<v1::Closed> Close();
  bool ended() const;

 private:
  ResumingSession(Connect connect, SessionStream::Listeners listeners, ResumeOptions options);

  // Runs a command, again after each move, until it ends by itself.
  template <typename Result>
  absl::StatusOr<Result> Run(const std::function<absl::StatusOr<Result>(SessionStream&)>& attempt);
  // Whether the command ended because the session was handed over.
  bool WasHandedOver(absl::StatusCode code);
  absl::Status Move();
  absl::Status OpenOnce(const v1::Open& open, absl::string_view snapshot = {});
  bool CancelAsked() const;

  const Connect connect_;
  const SessionStream::Listeners listeners_;
  const ResumeOptions options_;
  std::mt19937_64 random_;
  int moves_ = 0;
  // Names the session in the store; empty while it is on a server.
  std::string token_;

  // Replaced when the session moves, and cancelled from any thread.
  mutable Mutex mu_;
  std::shared_ptr<SessionStream> stream_;
  bool cancel_asked_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace mayfly
