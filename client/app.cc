#include "client/app.h"

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/commands/chat_command.h"
#include "client/commands/generate_command.h"
#include "client/commands/info_command.h"
#include "client/commands/score_command.h"
#include "client/commands/sessions_command.h"

namespace mayfly::cli {
namespace {

template <typename Type>
std::unique_ptr<Command> Create() {
  return std::make_unique<Type>();
}

struct CommandEntry {
  const char* name;
  const char* usage;
  const char* summary;
  std::unique_ptr<Command> (*create)();
};

constexpr CommandEntry kCommands[] = {
    {"generate", "[--prompt TEXT | --file FILE | -] [flags]", "continue a text, streaming",
     &Create<GenerateCommand>},
    {"score", "FILE [flags]", "read a text while learning it, and report its perplexity",
     &Create<ScoreCommand>},
    {"chat", "[flags]", "talk to a model that learns the conversation", &Create<ChatCommand>},
    {"sessions", "[end ID] [flags]", "what sessions the server has; or end one of them",
     &Create<SessionsCommand>},
    {"info", "[flags]", "what the server runs and what it allows", &Create<InfoCommand>},
};

const CommandEntry* FindCommand(const std::string& name) {
  const auto found = std::find_if(std::begin(kCommands), std::end(kCommands),
                                  [&](const CommandEntry& entry) { return entry.name == name; });
  return found == std::end(kCommands) ? nullptr : &*found;
}

std::string GeneralHelp() {
  std::string help =
      "mayfly: the command-line client of a Mayfly server, where every session has its own "
      "adapter\n"
      "that learns the text as it streams by and is gone when the session ends.\n\n";
  for (const CommandEntry& entry : kCommands) {
    absl::StrAppendFormat(&help, "  mayfly %-10s%s\n", entry.name, entry.summary);
  }
  return absl::StrCat(help, "\n'mayfly help COMMAND' lists a command's flags.\n");
}

std::string CommandHelp(const CommandEntry& entry) {
  return absl::StrCat("mayfly ", entry.name, " ", entry.usage, "\n", entry.summary, "\n",
                      FlagHelp(entry.create()->Flags()));
}

int Print(const std::string& text, Environment& env) {
  env.out << text << std::flush;
  return kExitDone;
}

int BadUsage(absl::string_view program, absl::string_view message, absl::string_view help,
             Environment& env) {
  env.err << program << ": " << message << "\nTry '" << help << "'." << std::endl;
  return kExitBadUsage;
}

int Help(const std::vector<std::string>& topics, Environment& env) {
  if (topics.empty()) return Print(GeneralHelp(), env);
  const CommandEntry* entry = FindCommand(topics[0]);
  if (entry != nullptr) return Print(CommandHelp(*entry), env);
  return BadUsage("mayfly help", absl::StrCat("unknown command '", topics[0], "'"), "mayfly help",
                  env);
}

bool AsksForHelp(const std::string& argument) { return argument == "--help" || argument == "-h"; }

int RunCommand(const CommandEntry& entry, const std::vector<std::string>& arguments,
               Environment& env) {
  if (std::any_of(arguments.begin(), arguments.end(), AsksForHelp)) {
    return Print(CommandHelp(entry), env);
  }
  const std::string program = absl::StrCat("mayfly ", entry.name);
  const std::unique_ptr<Command> command = entry.create();
  const auto others = ParseFlags(command->Flags(), arguments);
  const absl::Status usage = others.ok() ? command->SetArguments(*others) : others.status();
  if (!usage.ok()) {
    return BadUsage(program, usage.message(), absl::StrCat("mayfly help ", entry.name), env);
  }
  const absl::Status status = command->Run(env);
  if (status.ok()) return kExitDone;
  env.err << program << ": " << status.message() << std::endl;
  return kExitFailed;
}

}  // namespace

int RunApp(const std::vector<std::string>& arguments, Environment& env) {
  if (arguments.empty()) return BadUsage("mayfly", "a command is missing", "mayfly help", env);
  const std::vector<std::string> rest(arguments.begin() + 1, arguments.end());
  if (arguments[0] == "help" || AsksForHelp(arguments[0])) return Help(rest, env);
  if (arguments[0] == "--version") return Print("mayfly " MAYFLY_VERSION "\n", env);
  const CommandEntry* entry = FindCommand(arguments[0]);
  if (entry != nullptr) return RunCommand(*entry, rest, env);
  return BadUsage("mayfly", absl::StrCat("unknown command '", arguments[0], "'"), "mayfly help",
                  env);
}

}  // namespace mayfly::cli
