#include "client/commands/generate_command.h"

#include <memory>

#include "absl/strings/str_cat.h"
#include "client/document.h"
#include "client/human_format.h"
#include "client/json_lines.h"
#include "engine/base/status_macros.h"

namespace mayfly::cli {
namespace {

constexpr uint32_t kDefaultMaxTokens = 256;

}  // namespace

GenerateCommand::GenerateCommand() { generate_.set_max_tokens(kDefaultMaxTokens); }

std::vector<FlagGroup> GenerateCommand::Flags() {
  FlagGroup generation = {
      "Generation",
      {TextFlag("prompt", "TEXT", "the text to continue", &prompt_),
       TextFlag("file", "FILE", "a file with the text to continue; - is standard input", &file_),
       FieldFlag("max_tokens", "tokens to generate at most (256)", &generate_),
       FieldFlag("logprobs", "with --json: alternatives to report beside each token", &generate_)}};
  for (Flag& flag : StopFlags(&generate_)) generation.flags.push_back(std::move(flag));
  return {generation,
          SamplingFlagGroup(generate_.mutable_sampling()),
          AdaptationFlagGroup(open_.mutable_adaptation()),
          SessionFlagGroup(&open_),
          KeepFlagGroup(&keep_),
          OutputFlagGroup(&output_)};
}

absl::Status GenerateCommand::SetArguments(const std::vector<std::string>& arguments) {
  if (arguments == std::vector<std::string>{"-"}) {
    if (!file_.empty()) return absl::InvalidArgumentError("--file and - exclude each other");
    file_ = arguments[0];
  } else if (!arguments.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("unexpected argument '", arguments[0],
                                                   "'; the text to continue goes into --prompt"));
  }
  if (prompt_.empty() == file_.empty()) {
    return absl::InvalidArgumentError("give the text to continue: --prompt TEXT, --file FILE or -");
  }
  return absl::OkStatus();
}

absl::Status GenerateCommand::Run(Environment& env) {
  MAYFLY_ASSIGN_OR_RETURN(const std::string prompt, Prompt(env));
  SessionStream::Listeners listeners;
  listeners.on_update = [&](const v1::Update& update) { WriteUpdate(update, env); };
  MAYFLY_ASSIGN_OR_RETURN(const auto session,
                          OpenSession(output_, keep_, env, open_, std::move(listeners)));

  Interrupts::Scope scope(env.interrupts, [&] { session->Cancel().IgnoreError(); });
  MAYFLY_RETURN_IF_ERROR(AppendDocument(*session, prompt));
  MAYFLY_ASSIGN_OR_RETURN(const v1::Generated generated,
                          WriteGeneration(*session, generate_, env, output_.json));
  MAYFLY_RETURN_IF_ERROR(KeepSession(*session, keep_));
  session->Close().status().IgnoreError();
  WriteSummary(*session, generated, env);
  return scope.interrupted() ? absl::CancelledError("interrupted") : absl::OkStatus();
}

absl::StatusOr<std::string> GenerateCommand::Prompt(Environment& env) const {
  if (!file_.empty()) return ReadDocument(file_, env.in);
  MAYFLY_RETURN_IF_ERROR(CheckUtf8(prompt_, "--prompt"));
  return prompt_;
}

void GenerateCommand::WriteUpdate(const v1::Update& update, Environment& env) {
  updates_.Add(update);
  if (output_.json) WriteJsonLine(env.out, "update", ToJson(update));
}

void GenerateCommand::WriteSummary(const ResumingSession& session, const v1::Generated& generated,
                                   Environment& env) const {
  if (output_.json) {
    Json summary = GenerationJson(generated, updates_);
    summary["moves"] = session.moves();
    return WriteJsonLine(env.out, "summary", summary);
  }
  if (env.out_is_terminal) env.out << std::endl;
  if (env.err_is_terminal) {
    env.err << Dim(GenerationNote(generated, updates_), true) << std::endl;
  }
}

}  // namespace mayfly::cli
