#include "tests/support/scenario.h"

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/base/log.h"
#include "session/session_manager.h"
#include "tests/support/fake_clock.h"
#include "tests/support/fake_engine.h"
#include "tests/support/session_client.h"

namespace mayfly {
namespace {

// The words of a line: bare words, "quoted text", and name=value.
class Words {
 public:
  explicit Words(absl::string_view line) {
    while (!(line = absl::StripLeadingAsciiWhitespace(line)).empty()) {
      const bool quoted = line[0] == '"';
      if (quoted) line.remove_prefix(1);
      const size_t end = std::min(line.size(), line.find(quoted ? '"' : ' '));
      Add(line.substr(0, end), quoted);
      line.remove_prefix(std::min(line.size(), end + 1));
    }
  }

  const std::string& word(size_t i) const { return words_.at(i); }
  bool has(const std::string& flag) const {
    return std::find(words_.begin(), words_.end(), flag) != words_.end();
  }
  const std::string* value(const std::string& name) const {
    const auto found = values_.find(name);
    return found == values_.end() ? nullptr : &found->second;
  }
  double number(const std::string& text) const {
    double number = 0;
    MAYFLY_CHECK(absl::SimpleAtod(text, &number));
    return number;
  }
  template <typename T>
  void Read(const std::string& name, std::optional<T>* option) const {
    if (const std::string* text = value(name)) *option = static_cast<T>(number(*text));
  }

 private:
  void Add(absl::string_view word, bool quoted) {
    const size_t equals = word.find('=');
    if (quoted || equals == absl::string_view::npos) {
      words_.emplace_back(word);
    } else {
      values_[std::string(word.substr(0, equals))] = std::string(word.substr(equals + 1));
    }
  }

  std::vector<std::string> words_;
  std::map<std::string, std::string> values_;
};

// ---- Commands ------------------------------------------------------------------------------

SessionCommand OpenOf(const Words& words) {
  OpenCommand open;
  AdaptationWishes& wishes = open.adaptation;
  if (words.has("off")) wishes.preset = Preset::kOff;
  if (words.has("keep")) wishes.kv_policy = KvPolicy::kKeep;
  if (words.has("parallel")) wishes.mode = UpdateMode::kParallel;
  if (words.has("receipt")) wishes.receipt = true;
  words.Read("rank", &wishes.rank);
  words.Read("chunk_tokens", &wishes.chunk_tokens);
  words.Read("context_tokens", &wishes.context_tokens);
  words.Read("learning_rate", &wishes.learning_rate);
  words.Read("warmup_chunks", &wishes.warmup_chunks);
  words.Read("max_lag_chunks", &wishes.max_lag_chunks);
  words.Read("window_tokens", &open.window_tokens);
  return open;
}

SessionCommand AppendOf(const Words& words) {
  AppendCommand append;
  append.input = TextInput(words.word(1));
  append.score = words.has("score");
  append.compare_base = words.has("compare_base");
  append.learn = !words.has("no_learn");
  return append;
}

SessionCommand GenerateOf(const Words& words) {
  GenerateCommand generate;
  generate.max_tokens = static_cast<uint32_t>(words.number(words.word(1)));
  if (const std::string* stop = words.value("stop")) generate.stop = {*stop};
  return generate;
}

SessionCommand AdaptOf(const Words& words) {
  static const std::map<std::string, AdaptAction> actions = {
      {"pause", AdaptAction::kPause},
      {"resume", AdaptAction::kResume},
      {"reset", AdaptAction::kReset},
      {"update_now", AdaptAction::kUpdateNow}};
  AdaptCommand adapt;
  adapt.action = actions.at(words.word(1));
  words.Read("learning_rate", &adapt.options.learning_rate);
  return adapt;
}

SessionCommand CommandOf(const Words& words) {
  const std::string& verb = words.word(0);
  if (verb == "open") return OpenOf(words);
  if (verb == "append") return AppendOf(words);
  if (verb == "generate") return GenerateOf(words);
  if (verb == "adapt") return AdaptOf(words);
  if (verb == "cancel") return CancelCommand{static_cast<uint64_t>(words.number(words.word(1)))};
  if (verb == "close") return CloseCommand{};
  return InvalidCommand{absl::InvalidArgumentError(absl::StrCat("no command ", verb))};
}

// ---- Events --------------------------------------------------------------------------------

const char* Name(FinishReason reason) {
  static constexpr const char* kNames[] = {"STOP", "LENGTH", "EOS", "CANCELLED"};
  return kNames[static_cast<size_t>(reason)];
}

const char* Name(UpdateOutcome outcome) {
  static constexpr const char* kNames[] = {"APPLIED", "SKIPPED", "ROLLED_BACK", "FAILED"};
  return kNames[static_cast<size_t>(outcome)];
}

std::string Optional(const char* name, const std::optional<double>& value) {
  return value ? absl::StrCat(" ", name, "=", *value) : "";
}

std::string Show(const OpenedEvent& opened) {
  return absl::StrCat("opened window_tokens=", opened.window_tokens,
                      " rank=", opened.adaptation.adapter.rank);
}

std::string Show(const AppendedEvent& appended) {
  return absl::StrCat(appended.done ? "appended" : "appending", " tokens=", appended.tokens,
                      " window_position=", appended.window_position, Optional("nll", appended.nll),
                      Optional("base_nll", appended.base_nll));
}

std::string Show(const DeltaEvent& event) { return absl::StrCat("text ", event.delta.text); }

std::string Show(const GeneratedEvent& generated) {
  return absl::StrCat("generated ", Name(generated.reason),
                      " tokens=", generated.usage.generated_tokens);
}

std::string Show(const AdaptedEvent& adapted) {
  return absl::StrCat("adapted version=", adapted.adapter_version, adapted.paused ? " paused" : "");
}

std::string Show(const UpdateEvent& update) {
  const std::string& reason = update.result.reason;
  const std::string merged =
      update.merged_chunks > 1 ? absl::StrCat(" merged=", update.merged_chunks) : "";
  const std::string lag = update.lag_chunks > 1 ? absl::StrCat(" lag=", update.lag_chunks) : "";
  return absl::StrCat("update ", Name(update.result.outcome), " chunk=", update.chunk_index,
                      " tokens=", update.tokens, merged, lag,
                      " version=", update.result.adapter_version,
                      " learning_rate=", update.learning_rate, Optional("nll", update.nll),
                      Optional("base_nll", update.base_nll), reason.empty() ? "" : " ", reason);
}

std::string Show(const DrainingEvent&) { return "draining"; }

std::string Show(const ExportedEvent& exported) {
  return absl::StrCat("exported ", exported.file, " ", exported.offset, "+", exported.data.size(),
                      exported.done ? " done" : "");
}

std::string Show(const ErrorEvent& error) {
  return absl::StrCat("error ", absl::StatusCodeToString(error.status.code()), " ",
                      error.status.message());
}

std::string Show(const ClosedEvent& closed) {
  return absl::StrCat("closed ", closed.reason, " prompt=", closed.usage.prompt_tokens,
                      " generated=", closed.usage.generated_tokens,
                      " trained=", closed.usage.trained_tokens);
}

// ---- The run -------------------------------------------------------------------------------

class Scenario {
 public:
  Scenario() : manager_(Options(), &engine_, &clock_, &log_, &metrics_), client_(&manager_) {}

  // A command or a happening.
  void Do(absl::string_view line) {
    const Words words(line.substr(1));
    if (line[0] == '!') return Happen(words);
    if (words.word(0) == "half_close") return client_.session().HalfClose();
    client_.Send(CommandOf(words));
  }

  // Everything that the client has seen since the last call.
  std::string Transcript() {
    Settle();
    std::string lines;
    bool in_text = false;
    for (; seen_ < client_.events().size(); ++seen_) {
      const auto& body = client_.events()[seen_].body;
      const auto* delta = std::get_if<DeltaEvent>(&body);
      if (in_text && delta == nullptr) lines += "\n";
      if (delta != nullptr) {
        lines += in_text ? delta->delta.text : absl::StrCat("< ", Show(*delta));
      } else {
        lines += absl::StrCat("< ", std::visit([](const auto& event) { return Show(event); }, body),
                              "\n");
      }
      in_text = delta != nullptr;
    }
    if (in_text) lines += "\n";
    if (client_.final_status() && !std::exchange(ended_, true)) lines += End();
    return lines;
  }

 private:
  static SessionManager::Options Options() {
    SessionManager::Options options;
    options.limits.idle_timeout_seconds = 60;
    options.random = [] { return 1; };
    return options;
  }

  void Happen(const Words& words) {
    const std::string& what = words.word(0);
    if (what == "step") {
      for (int i = static_cast<int>(words.number(words.word(1))); i > 0; --i) engine_.Step();
    } else if (what == "idle") {
      clock_.Advance(words.number(words.word(1)));
      manager_.ExpireSessions();
    } else if (what == "drain") {
      manager_.StartDrain(0);
    } else if (what == "defer") {
      engine_.SetDefersLearning(true);
    } else if (what == "learn") {
      engine_.SetDefersLearning(false);
      manager_.ExpireSessions();
    } else if (what == "hold_updates") {
      engine_.HoldUpdates(true);
    } else if (what == "release_updates") {
      engine_.HoldUpdates(false);
    } else if (what == "fail_update") {
      engine_.FailNext<UpdateWork>(absl::ResourceExhaustedError("out of memory"));
    } else if (what == "fail_device") {
      engine_.FailDevice(absl::InternalError("device lost"));
    } else if (what == "adapter_worse_by") {
      FakeEngine::Script script;
      script.logprob = [excess = words.number(words.word(1))](uint64_t, uint64_t version) {
        return static_cast<float>(version == 1 ? -1.0 - excess : -1.0);
      };
      script.base_logprob = [](uint64_t) { return -1.0f; };
      engine_.SetScript(script);
    }
  }

  void Settle() {
    for (bool worked = true; worked;) {
      worked = engine_.Step();
      worked |= client_.ReadOne();
    }
  }

  std::string End() {
    const absl::Status& status = *client_.final_status();
    return absl::StrCat("< end ", absl::StatusCodeToString(status.code()), status.ok() ? "" : " ",
                        status.message(), "; rows free: ", engine_.free_rows(), "\n");
  }

  FakeClock clock_;
  FakeEngine engine_;
  Logger log_{LogLevel::kError, LogFormat::kText};
  SessionMetrics metrics_;
  SessionManager manager_;
  SessionClient client_;
  size_t seen_ = 0;
  bool ended_ = false;
};

}  // namespace

std::string ReplayScenario(const std::string& script) {
  Scenario scenario;
  std::string replay;
  bool expecting = false;
  for (absl::string_view line : absl::StrSplit(absl::StripSuffix(script, "\n"), '\n')) {
    const bool expects = absl::StartsWith(line, "<");
    if (expects && !expecting) replay += scenario.Transcript();
    expecting = expects;
    if (expects) continue;
    if (absl::StartsWith(line, ">") || absl::StartsWith(line, "!")) scenario.Do(line);
    absl::StrAppend(&replay, line, "\n");
  }
  return replay + scenario.Transcript();
}

}  // namespace mayfly
