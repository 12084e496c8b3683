#include "client/commands/score_command.h"

#include <filesystem>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "client/document.h"
#include "client/human_format.h"
#include "client/json_lines.h"
#include "engine/base/status_macros.h"

namespace mayfly::cli {

std::vector<FlagGroup> ScoreCommand::Flags() {
  FlagGroup continuation = {
      "Continuation",
      {FieldFlag("continue", "then generate up to N tokens in the same session", &generate_,
                 "max_tokens")}};
  for (Flag& flag : StopFlags(&generate_)) continuation.flags.push_back(std::move(flag));
  return {{"Scoring",
           {SwitchFlag("compare_base", "also score under the frozen base model",
                       &scoring_.compare_base),
            NumberFlag("max_tokens", "stop after this many tokens; 0 reads to the end",
                       &scoring_.max_tokens),
            SwitchFlag("chunk_report", "also write one line a chunk", &chunk_report_)}},
          continuation,
          SamplingFlagGroup(generate_.mutable_sampling()),
          AdaptationFlagGroup(open_.mutable_adaptation()),
          SessionFlagGroup(&open_),
          KeepFlagGroup(&keep_),
          OutputFlagGroup(&output_)};
}

absl::Status ScoreCommand::SetArguments(const std::vector<std::string>& arguments) {
  if (arguments.size() != 1) {
    return absl::InvalidArgumentError("give one file to read; - is standard input");
  }
  path_ = arguments[0];
  return absl::OkStatus();
}

absl::Status ScoreCommand::Run(Environment& env) {
  MAYFLY_ASSIGN_OR_RETURN(const std::string text, ReadDocument(path_, env.in));
  const bool shows_bar = env.err_is_terminal && !(output_.json && env.out_is_terminal);
  Reading reading{env, nullptr, ProgressBar(env.err, env.clock, {shows_bar, env.columns}), {}};
  MAYFLY_RETURN_IF_ERROR(Open(reading));

  absl::Status status = Read(reading, text);
  const bool continues = status.ok() && generate_.max_tokens() > 0;
  // The update of the last chunk may still be on its way.
  if (status.ok() && !continues) status = KeepSession(*reading.session, keep_);
  if (status.ok() && !continues) status = reading.session->Finish().status();
  reading.bar.Clear();
  if (SumNll(reading.result.scores.adapter).tokens == 0) {
    status.Update(absl::FailedPreconditionError("the text is too short: no token was scored"));
    return status;
  }

  // What was read before a failure is still worth a report.
  if (!output_.json) env.out << SummaryText(reading.result) << std::flush;
  if (continues) status = Continue(reading);
  if (output_.json) WriteJsonLine(env.out, "summary", SummaryJson(reading.result));
  return status;
}

absl::Status ScoreCommand::Open(Reading& reading) {
  SessionStream::Listeners listeners;
  listeners.on_update = [this, &reading](const v1::Update& update) { OnUpdate(reading, update); };
  MAYFLY_ASSIGN_OR_RETURN(reading.session,
                          OpenSession(output_, keep_, reading.env, open_, std::move(listeners)));
  reading.result.adaptation = reading.session->opened().adaptation();
  reading.result.document = std::filesystem::path(path_).filename().string();
  return absl::OkStatus();
}

absl::Status ScoreCommand::Read(Reading& reading, const std::string& text) {
  const TimePoint start = reading.env.clock.Now();
  DocumentScorer scorer(*reading.session, scoring_, [&] { OnScores(reading, scorer); });
  Interrupts::Scope scope(reading.env.interrupts, [&] { scorer.Stop(); });
  const absl::Status status = scorer.Read(text);
  reading.result.seconds = Seconds(reading.env.clock.Now() - start);
  reading.result.scores = scorer.scores();
  WriteChunks(reading, reading.result.scores, /*at_end=*/true);
  if (!scope.interrupted() || status.ok()) return status;
  return absl::CancelledError("interrupted before the end of the text");
}

absl::Status ScoreCommand::Continue(Reading& reading) {
  Environment& env = reading.env;
  if (!output_.json) env.out << "\n" << Dim("The text goes on:", env.out_is_terminal) << "\n";
  Interrupts::Scope scope(env.interrupts, [&] { reading.session->Cancel().IgnoreError(); });
  MAYFLY_ASSIGN_OR_RETURN(const v1::Generated generated,
                          WriteGeneration(*reading.session, generate_, env, output_.json));
  MAYFLY_RETURN_IF_ERROR(KeepSession(*reading.session, keep_));
  reading.session->Close().status().IgnoreError();
  if (output_.json) {
    WriteJsonLine(env.out, "generated", ToJson(generated));
  } else {
    env.out << std::endl;
  }
  return scope.interrupted() ? absl::CancelledError("interrupted") : absl::OkStatus();
}

void ScoreCommand::OnUpdate(Reading& reading, const v1::Update& update) const {
  reading.result.updates.Add(update);
  if (!output_.json) return;
  reading.bar.Clear();
  WriteJsonLine(reading.env.out, "update", ToJson(update));
}

void ScoreCommand::OnScores(Reading& reading, const DocumentScorer& scorer) const {
  WriteChunks(reading, scorer.scores(), /*at_end=*/false);
  reading.bar.Show(scorer.fraction(),
                   absl::StrCat(RunningNote(scorer.scores()), "  ",
                                Counted(reading.result.updates.applied, "update")));
}

void ScoreCommand::WriteChunks(Reading& reading, const TokenScores& scores, bool at_end) const {
  if (!output_.json && !chunk_report_) return;
  const size_t chunk_tokens = reading.result.chunk_tokens();
  const size_t read = scores.adapter.size();
  const size_t chunks = at_end ? (read + chunk_tokens - 1) / chunk_tokens : read / chunk_tokens;
  for (; reading.chunks_written < chunks; ++reading.chunks_written) {
    reading.bar.Clear();
    if (output_.json) {
      WriteJsonLine(reading.env.out, "chunk",
                    ChunkJson(scores, chunk_tokens, reading.chunks_written));
    } else {
      reading.env.out << ChunkLine(scores, chunk_tokens, reading.chunks_written) << std::flush;
    }
  }
}

}  // namespace mayfly::cli
