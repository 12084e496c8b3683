#pragma once

// One session on a Mayfly server, as a blocking object: opening it takes a row there, and its end
// in any way frees that row and all that it learned. Owned by the caller.
//
//   MAYFLY_ASSIGN_OR_RETURN(auto channel, mayfly::CreateChannel({.address = "127.0.0.1:7400"}));
//   MAYFLY_ASSIGN_OR_RETURN(auto session, mayfly::SessionStream::Open(channel,
//   mayfly::v1::Open())); MAYFLY_RETURN_IF_ERROR(session->AppendText("It was a dark and stormy
//   night").status()); mayfly::v1::Generate generate; generate.set_max_tokens(64);
//   MAYFLY_RETURN_IF_ERROR(session->Generate(generate, [](const mayfly::v1::Delta& delta) {
//     std::cout << delta.text() << std::flush;
//   }).status());
//   return session->Close().status();
//
// One thread at a time calls the commands; each returns when the server has answered it. Callbacks
// run on that thread, inside the command. Cancel may be called from any thread and from callbacks.
//
// A command that the server refuses returns its error, and the session lives on with all that it
// learned. Once the stream itself has ended, `ended` is true and every command returns its status.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "engine/base/mutex.h"
#include "mayfly/v1/inference_service.grpc.pb.h"

namespace mayfly {

// The same code and message.
absl::Status ToAbslStatus(const grpc::Status& status);

// Adds what the next part of an append's answer says to what the parts before it have said: counts
// and sums are of the append so far and replace each other, lists grow.
void AddPart(const v1::Appended& part, v1::Appended* all);

class SessionStream {
 public:
  using ProgressCallback = std::function<void(const v1::Appended&)>;
  using DeltaCallback = std::function<void(const v1::Delta&)>;
  // A part of an exported file. An error ends the export and is its answer.
  using ExportCallback = std::function<absl::Status(const v1::Exported&)>;

  // For what the server sends unasked. It arrives while a command waits for its own answer.
  struct Listeners {
    std::function<void(const v1::Update&)> on_update;
    std::function<void(const v1::Draining&)> on_draining;
  };

  // `snapshot`: what an export has given, to go on from; then `open` sets nothing but a label.
  static absl::StatusOr<std::unique_ptr<SessionStream>> Open(
      std::shared_ptr<grpc::ChannelInterface> channel, v1::Open open, Listeners listeners = {},
      absl::string_view snapshot = {});
  // Ends a session that is still open at once.
  ~SessionStream();
  SessionStream(const SessionStream&) = delete;
  SessionStream& operator=(const SessionStream&) = delete;

  const v1::Opened& opened() const { return opened_; }

  // `on_progress` sees every part of the answer as it arrives, the last one included; the returned
  // message holds the log-probabilities of all parts together.
  absl::StatusOr<v1::Appended> Append(v1::Append append, const ProgressCallback& on_progress = {});
  absl::StatusOr<v1::Appended> AppendText(std::string text);
  absl::StatusOr<v1::Generated> Generate(v1::Generate generate, const DeltaCallback& on_delta);
  absl::StatusOr<v1::Adapted> Adapt(v1::Adapt adapt);
  // Every part has the checksum that came with it, else kDataLoss. Returns the last part, which
  // has the token of a snapshot that stays in the server's store.
  absl::StatusOr<v1::Exported> Export(const v1::Export& request, const ExportCallback& on_part);

  // Asks the server to end the running command, whose own call then returns: a generation with
  // FINISH_REASON_CANCELLED, anything else with kCancelled. Does not wait. Any thread.
  absl::Status Cancel();

  // Lets what was sent finish, then ends the session.
  absl::StatusOr<v1::Closed> Finish();
  // Ends the session now, dropping what runs.
  absl::StatusOr<v1::Closed> Close();

  // Reads to the stream's end, giving the listeners what comes, and returns its final status; never
  // OK.
  absl::Status AwaitEnd() { return EndStatus(); }
  bool ended() const;

 private:
  using Stream = grpc::ClientReaderWriter<v1::SessionRequest, v1::SessionResponse>;
  // Returns whether this response is the last of its command.
  using ResponseHandler = std::function<bool(const v1::SessionResponse&)>;

  SessionStream(std::shared_ptr<grpc::ChannelInterface> channel, Listeners listeners);

  // Sends a command and gives its responses to `handle` until that returns true.
  absl::Status Call(v1::SessionRequest request, const ResponseHandler& handle);
  absl::Status Await(const absl::StatusOr<uint64_t>& id, const ResponseHandler& handle);
  // Sets the request's id and returns it.
  absl::StatusOr<uint64_t> Send(v1::SessionRequest* request);
  // The next response to a command; what came unasked has gone to the listeners.
  absl::StatusOr<v1::SessionResponse> Receive();
  // Reads the stream to its end and returns the closing message.
  absl::StatusOr<v1::Closed> AwaitClosed();
  // Takes the stream's final status. Never OK: the server left a command unanswered.
  absl::Status EndStatus();
  bool Listen(const v1::SessionResponse& response);

  const std::unique_ptr<v1::InferenceService::Stub> stub_;
  const Listeners listeners_;
  v1::Opened opened_;

  // Used by the thread that calls the commands.
  grpc::ClientContext context_;
  std::unique_ptr<Stream> stream_;
  std::optional<v1::Closed> closed_;
  grpc::Status final_status_;

  // Held while writing: a cancel may come from another thread, and no write may follow the end.
  mutable Mutex write_mu_;
  uint64_t last_request_id_ ABSL_GUARDED_BY(write_mu_) = 0;
  bool sent_all_ ABSL_GUARDED_BY(write_mu_) = false;
  bool ended_ ABSL_GUARDED_BY(write_mu_) = false;
};

}  // namespace mayfly
