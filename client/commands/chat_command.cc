#include "client/commands/chat_command.h"

#include <iterator>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/document.h"
#include "client/human_format.h"
#include "client/json_lines.h"
#include "engine/base/status_macros.h"

namespace mayfly::cli {
namespace {

constexpr uint32_t kDefaultMaxTokens = 512;
constexpr const char* kQuit = "/quit";

struct SlashCommand {
  const char* name;
  v1::AdaptAction action;
  const char* help;
};

constexpr SlashCommand kSlashCommands[] = {
    {"/pause", v1::ADAPT_ACTION_PAUSE, "learn nothing until /resume"},
    {"/resume", v1::ADAPT_ACTION_RESUME, "learn again"},
    {"/update", v1::ADAPT_ACTION_UPDATE_NOW, "learn now what was said since the last update"},
    {"/reset", v1::ADAPT_ACTION_RESET, "forget what was learned; the conversation stays"},
};

std::string Help() {
  std::string help = "Everything that does not start with / goes to the model.\n";
  for (const SlashCommand& command : kSlashCommands) {
    absl::StrAppend(&help, "  ", command.name, "\t", command.help, "\n");
  }
  return absl::StrCat(help, "  /help\tthis list\n  ", kQuit, "\tend (so does the end of input)\n");
}

const SlashCommand* FindSlashCommand(const std::string& name) {
  for (const SlashCommand& command : kSlashCommands) {
    if (name == command.name) return &command;
  }
  return nullptr;
}

void AddMessage(const char* role, const std::string& content, v1::Messages* messages) {
  v1::Message* message = messages->add_messages();
  message->set_role(role);
  message->set_content(content);
}

bool ReadLine(Environment& env, std::string* line) {
  const bool prompts = env.in_is_terminal && env.out_is_terminal;
  if (prompts) env.out << "> " << std::flush;
  if (std::getline(env.in, *line)) return true;
  // Ctrl-D leaves the cursor behind the prompt.
  if (prompts) env.out << std::endl;
  return false;
}

}  // namespace

ChatCommand::ChatCommand() { generate_.set_max_tokens(kDefaultMaxTokens); }

std::vector<FlagGroup> ChatCommand::Flags() {
  FlagGroup conversation = {
      "Conversation",
      {TextFlag("system", "TEXT", "what the model is told first", &system_),
       FieldFlag("max_tokens", "tokens of an answer at most (512)", &generate_)}};
  for (Flag& flag : StopFlags(&generate_)) conversation.flags.push_back(std::move(flag));
  return {conversation,
          SamplingFlagGroup(generate_.mutable_sampling()),
          AdaptationFlagGroup(open_.mutable_adaptation()),
          SessionFlagGroup(&open_),
          KeepFlagGroup(&keep_),
          OutputFlagGroup(&output_)};
}

absl::Status ChatCommand::SetArguments(const std::vector<std::string>& arguments) {
  if (!arguments.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("unexpected argument '", arguments[0], "'"));
  }
  return CheckUtf8(system_, "--system");
}

absl::Status ChatCommand::Run(Environment& env) {
  SessionStream::Listeners listeners;
  listeners.on_update = [this](const v1::Update& update) {
    updates_.Add(update);
    new_updates_.push_back(update);
  };
  MAYFLY_ASSIGN_OR_RETURN(const auto session,
                          OpenSession(output_, keep_, env, open_, std::move(listeners)));
  if (env.in_is_terminal && env.err_is_terminal) {
    env.err << Dim("/help lists the commands, Ctrl-C ends an answer, /quit the chat", true)
            << std::endl;
  }
  for (std::string line; ReadLine(env, &line) && line != kQuit;) {
    if (line.empty()) continue;
    MAYFLY_RETURN_IF_ERROR(line[0] == '/' ? Steer(*session, line, env)
                                          : Answer(*session, line, env));
  }
  MAYFLY_RETURN_IF_ERROR(KeepSession(*session, keep_));
  return session->Close().status();
}

absl::Status ChatCommand::Answer(ResumingSession& session, const std::string& line,
                                 Environment& env) {
  if (const absl::Status valid = CheckUtf8(line, "this line"); !valid.ok()) {
    return Tell(valid, session, env);
  }
  v1::Append turn;
  if (!greeted_ && !system_.empty()) AddMessage("system", system_, turn.mutable_messages());
  AddMessage("user", line, turn.mutable_messages());

  Interrupts::Scope scope(env.interrupts, [&] { session.Cancel().IgnoreError(); });
  if (const auto appended = session.Append(std::move(turn)); !appended.ok()) {
    return Tell(appended.status(), session, env);
  }
  greeted_ = true;
  const auto generated = WriteGeneration(session, generate_, env, output_.json);
  if (!generated.ok()) return Tell(generated.status(), session, env);
  WriteNotes(*generated, env);
  return absl::OkStatus();
}

absl::Status ChatCommand::Steer(ResumingSession& session, const std::string& line,
                                Environment& env) {
  const SlashCommand* command = FindSlashCommand(line);
  if (command == nullptr) {
    env.err << (line == "/help" ? Help()
                                : absl::StrCat("unknown command ", line, "; /help lists them\n"))
            << std::flush;
    return absl::OkStatus();
  }
  v1::Adapt adapt;
  adapt.set_action(command->action);
  const auto adapted = session.Adapt(std::move(adapt));
  if (!adapted.ok()) return Tell(adapted.status(), session, env);
  if (output_.json) {
    WriteJsonLine(env.out, "adapted", ToJson(*adapted));
  } else {
    env.err << Dim(absl::StrCat("adapter version ", adapted->adapter_version(),
                                adapted->paused() ? ", learning paused" : ", learning"),
                   env.err_is_terminal)
            << std::endl;
  }
  return absl::OkStatus();
}

absl::Status ChatCommand::Tell(const absl::Status& status, const ResumingSession& session,
                               Environment& env) const {
  if (session.ended()) return status;
  env.err << "mayfly chat: " << status.message() << std::endl;
  return absl::OkStatus();
}

void ChatCommand::WriteNotes(const v1::Generated& generated, Environment& env) {
  const std::vector<v1::Update> updates = std::exchange(new_updates_, {});
  if (output_.json) {
    for (const v1::Update& update : updates) WriteJsonLine(env.out, "update", ToJson(update));
    WriteJsonLine(env.out, "generated", GenerationJson(generated, updates_));
    return;
  }
  env.out << std::endl;
  if (!env.err_is_terminal) return;
  for (const v1::Update& update : updates) env.err << Dim(UpdateNote(update), true) << "\n";
  env.err << Dim(GenerationNote(generated, updates_), true) << std::endl;
}

}  // namespace mayfly::cli
