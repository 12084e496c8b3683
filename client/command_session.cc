#include "client/command_session.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "client/document.h"
#include "client/export_files.h"
#include "client/human_format.h"
#include "client/json_lines.h"
#include "engine/base/status_macros.h"

namespace mayfly::cli {
namespace {

absl::Status Export(ResumingSession& session, v1::ExportFormat format, const std::string& path) {
  if (path.empty()) return absl::OkStatus();
  const bool peft = format == v1::EXPORT_FORMAT_PEFT;
  ExportFiles files(path, peft ? ExportFiles::Shape::kFolder : ExportFiles::Shape::kFile);
  v1::Export request;
  request.set_format(format);
  const auto begin = [&] { files.Begin(); };
  const auto write = [&](const v1::Exported& part) { return files.Write(part); };
  MAYFLY_RETURN_IF_ERROR(session.Export(request, begin, write).status());
  return files.Keep();
}

}  // namespace

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

absl::StatusOr<std::unique_ptr<ResumingSession>> OpenSession(const OutputFlags& flags,
                                                             const KeepFlags& keep,
                                                             const Environment& env,
                                                             const v1::Open& open,
                                                             SessionStream::Listeners listeners) {
  MAYFLY_RETURN_IF_ERROR(CheckFree(keep.export_peft));
  MAYFLY_RETURN_IF_ERROR(CheckFree(keep.export_snapshot));
  std::string snapshot;
  if (!keep.resume_from.empty()) {
    MAYFLY_ASSIGN_OR_RETURN(snapshot, ReadBytes(keep.resume_from));
  }
  const auto connect = [flags, &env]() -> absl::StatusOr<std::shared_ptr<grpc::ChannelInterface>> {
    return Connect(flags, env);
  };
  auto session = ResumingSession::Open(connect, open, std::move(listeners),
                                       {.enabled = keep.resume}, snapshot);
  if (!session.ok()) return ExplainStatus(session.status(), ServerAddress(flags, env));
  return session;
}

absl::Status KeepSession(ResumingSession& session, const KeepFlags& keep) {
  MAYFLY_RETURN_IF_ERROR(Export(session, v1::EXPORT_FORMAT_PEFT, keep.export_peft));
  return Export(session, v1::EXPORT_FORMAT_SNAPSHOT, keep.export_snapshot);
}

absl::Status AppendDocument(ResumingSession& session, absl::string_view text) {
  while (!text.empty()) {
    const absl::string_view piece = FirstPiece(text, kMaxPieceBytes);
    MAYFLY_RETURN_IF_ERROR(session.AppendText(std::string(piece)).status());
    text.remove_prefix(piece.size());
  }
  return absl::OkStatus();
}

absl::StatusOr<v1::Generated> WriteGeneration(ResumingSession& session,
                                              const v1::Generate& generate, Environment& env,
                                              bool json) {
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
