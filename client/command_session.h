#pragma once

// What the commands do with a session, each written once: open it with an error that helps, count
// its updates, feed it text of any length, and write what it generates.

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/command.h"
#include "client/proto_fields.h"
#include "client/resuming_session.h"
#include "client/session_flags.h"
#include "grpcpp/channel.h"

namespace mayfly::cli {

// Most bytes of text in one append: far below the server's limit of tokens, far above a chunk.
inline constexpr size_t kMaxPieceBytes = 32 * 1024;

struct UpdateCount {
  uint64_t all = 0;
  uint64_t applied = 0;

  void Add(const v1::Update& update);
};

// The server that the flags or the environment name.
std::string ServerAddress(const OutputFlags& flags, const Environment& env);

// A channel to it, as the flags say; connects when first used.
absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const OutputFlags& flags,
                                                       const Environment& env);

// `status`, saying which server could not be used if that is what happened.
absl::Status ExplainStatus(const absl::Status& status, absl::string_view address);

// Fails before anything is learned where `keep` names a place that is taken. `env` outlives the
// session.
absl::StatusOr<std::unique_ptr<ResumingSession>> OpenSession(const OutputFlags& flags,
                                                             const KeepFlags& keep,
                                                             const Environment& env,
                                                             const v1::Open& open,
                                                             SessionStream::Listeners listeners);

// Exports what `keep` names. The session goes on.
absl::Status KeepSession(ResumingSession& session, const KeepFlags& keep);

// Appends the text piece by piece.
absl::Status AppendDocument(ResumingSession& session, absl::string_view text);

// Generates, writing to env.out as it arrives: the text, or with `json` one `delta` object each.
absl::StatusOr<v1::Generated> WriteGeneration(ResumingSession& session,
                                              const v1::Generate& generate, Environment& env,
                                              bool json);

// What a generation was, as fields of a JSON line.
Json GenerationJson(const v1::Generated& generated, const UpdateCount& updates);

// "128 tokens, 23.4 tokens/s, first token after 0.12 s, 2 updates applied".
std::string GenerationNote(const v1::Generated& generated, const UpdateCount& updates);

// "update 3 applied: loss 3.10 -> 2.90, adapter version 3".
std::string UpdateNote(const v1::Update& update);

}  // namespace mayfly::cli
