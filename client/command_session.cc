#include "client/command_session.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "client/document.h"
#include "client/human_format.h"
#include "client/json_lines.h"
#include "engine/base/status_macros.h"

namespace mayfly::cli {

void UpdateCount::Add(const v1::Update& update) {
  ++all;
  if (update.outcome() == v1::UPDATE_OUTCOME_APPLIED) ++applied;
}

std::string ServerAddress(const OutputFlags& flags, const Environment& env) {
  return flags.server.address.empty() ? env.server : flags.server.address;
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const OutputFlags& flags,
                                                       const Environment& env) {
  ChannelOptions options = flags.server;
  options.address = ServerAddress(flags, env);
  return CreateChannel(options);
}

absl::Status ExplainStatus(const absl::Status& status, absl::string_view address) {
  if (!absl::IsUnavailable(status)) return status;
  // gRPC has no code of its own for a server that is not there.
  const bool not_there = absl::StrContains(status.message(), "failed to connect");
  return absl::UnavailableError(
      absl::StrCat(not_there ? "no server answers at " : "cannot use the server at ", address,
                   not_there ? "; start mayflyd, or name another with --server (" : " (",
                   status.message(), ")"));
}

absl::StatusOr<std::unique_ptr<SessionStream>> OpenSession(const OutputFlags& flags,
                                                           const Environment& env,
                                                           const v1::Open& open,
                                                           SessionStream::Listeners listeners) {
  MAYFLY_ASSIGN_OR_RETURN(const auto channel, Connect(flags, env));
  auto session = SessionStream::Open(channel, open, std::move(listeners));
  if (!session.ok()) return ExplainStatus(session.status(), ServerAddress(flags, env));
  return session;
}

absl::Status AppendDocument(SessionStream& session, absl::string_view text) {
  while (!text.empty()) {
    const absl::string_view piece = FirstPiece(text, kMaxPieceBytes);
    MAYFLY_RETURN_IF_ERROR(session.AppendText(std::string(piece)).status());
    text.remove_prefix(piece.size());
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Generated> WriteGeneration(SessionStream& session, const v1::Generate& generate,
                                              Environment& env, bool json) {
  return session.Generate(generate, [&](const v1::Delta& delta) {
    if (json) {
      WriteJsonLine(env.out, "delta", ToJson(delta));
    } else {
      env.out << delta.text() << std::flush;
    }
  });
}

Json GenerationJson(const v1::Generated& generated, const UpdateCount& updates) {
  Json json = ToJson(generated);
  json["updates"] = updates.all;
  json["applied"] = updates.applied;
  return json;
}

std::string GenerationNote(const v1::Generated& generated, const UpdateCount& updates) {
  const uint64_t tokens = generated.usage().generated_tokens();
  const v1::Timings& timings = generated.timings();
  std::string note = Counted(tokens, "token");
  if (tokens > 0 && timings.total_seconds() > 0) {
    absl::StrAppendFormat(&note, ", %.1f tokens/s, first token after %s",
                          static_cast<double>(tokens) / timings.total_seconds(),
                          Elapsed(timings.time_to_first_token_seconds()));
  }
  absl::StrAppend(&note, ", ", Counted(updates.applied, "update"), " applied");
  return note;
}

std::string UpdateNote(const v1::Update& update) {
  const std::string outcome = ToJson(update)["outcome"];
  std::string note = absl::StrCat("update ", update.chunk_index(), " ",
                                  absl::StrReplaceAll(outcome, {{"_", " "}}), ": ");
  if (update.outcome() != v1::UPDATE_OUTCOME_APPLIED) return note + update.reason();
  const auto two_digits = [](std::string* out, double loss) {
    absl::StrAppendFormat(out, "%.2f", loss);
  };
  return absl::StrCat(note, "loss ", absl::StrJoin(update.losses(), " -> ", two_digits),
                      ", adapter version ", update.adapter_version());
}

}  // namespace mayfly::cli
