#include "server/config.h"

#include <cmath>
#include <fstream>
#include <functional>
#include <initializer_list>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/time.h"
#include "engine/base/loopback.h"
#include "engine/base/status_macros.h"
#include "server/snapshots/redis_address.h"
#include "session/options_resolver.h"

namespace mayfly {
namespace {

// Reads a flag's text into the configuration; an error says which values the flag takes.
using Setter = std::function<absl::Status(absl::string_view text, Config* config)>;

struct Flag {
  absl::string_view name;
  absl::string_view type;
  // Read by `set` before any other source; empty: the member's own initial value.
  absl::string_view default_text;
  absl::string_view help;
  Setter set;
};

absl::Status Want(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("want ", what));
}

// ---- Setters: `field` leads from a Config to the member that the flag sets ------------------

#define FIELD(path) [](Config* config) { return &config->path; }

template <typename Field>
Setter Text(Field field) {
  return [field](absl::string_view text, Config* config) {
    *field(config) = std::string(text);
    return absl::OkStatus();
  };
}

template <typename Field>
Setter Int(Field field, int64_t min, int64_t max) {
  return [=](absl::string_view text, Config* config) {
    int64_t value = 0;
    if (!absl::SimpleAtoi(text, &value) || value < min || value > max) {
      return Want(absl::StrCat("a whole number from ", min, " to ", max));
    }
    *field(config) = value;
    return absl::OkStatus();
  };
}

template <typename Field>
Setter Real(Field field) {
  return [field](absl::string_view text, Config* config) {
    double value = 0;
    if (!absl::SimpleAtod(text, &value) || !std::isfinite(value)) return Want("a finite number");
    *field(config) = value;
    return absl::OkStatus();
  };
}

template <typename Field>
Setter Bool(Field field) {
  return [field](absl::string_view text, Config* config) {
    bool value = false;
    if (!absl::SimpleAtob(text, &value)) return Want("true or false");
    *field(config) = value;
    return absl::OkStatus();
  };
}

template <typename Value, typename Field>
Setter OneOf(Field field, std::vector<std::pair<absl::string_view, Value>> choices) {
  return [=](absl::string_view text, Config* config) {
    for (const auto& [name, value] : choices) {
      if (name != text) continue;
      *field(config) = value;
      return absl::OkStatus();
    }
    return Want(
        absl::StrCat("one of ", absl::StrJoin(choices, ", ", [](std::string* out, const auto& c) {
                       absl::StrAppend(out, c.first);
                     })));
  };
}

// Splits "16MiB" into number and factor; no suffix is bytes.
std::optional<uint64_t> ParseBytes(absl::string_view text) {
  constexpr std::pair<absl::string_view, int> kSuffixes[] = {
      {"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};
  int shift = 0;
  for (const auto& [suffix, bits] : kSuffixes) {
    if (absl::ConsumeSuffix(&text, suffix)) shift = bits;
  }
  uint64_t value = 0;
  if (!absl::SimpleAtoi(text, &value) || value > (UINT64_MAX >> shift)) return std::nullopt;
  return value << shift;
}

template <typename Field>
Setter Bytes(Field field, uint64_t min, uint64_t max) {
  return [=](absl::string_view text, Config* config) {
    const std::optional<uint64_t> value = ParseBytes(text);
    if (!value || *value < min || *value > max) {
      return Want(absl::StrCat("bytes (KiB, MiB, GiB may follow) from ", min, " to ", max));
    }
    *field(config) = *value;
    return absl::OkStatus();
  };
}

// A plain number is seconds.
std::optional<double> ParseSeconds(absl::string_view text) {
  double seconds = 0;
  if (absl::SimpleAtod(text, &seconds)) return seconds;
  absl::Duration duration;
  if (!absl::ParseDuration(text, &duration)) return std::nullopt;
  return absl::ToDoubleSeconds(duration);
}

template <typename Field>
Setter Seconds(Field field) {
  constexpr double kYear = 365 * 24 * 3600.0;
  return [field](absl::string_view text, Config* config) {
    const std::optional<double> value = ParseSeconds(text);
    if (!value || !(*value >= 0 && *value <= kYear)) {
      return Want("seconds, or a duration such as 10s, 5m or 1h, up to a year");
    }
    *field(config) = *value;
    return absl::OkStatus();
  };
}

absl::Status SetDevice(absl::string_view text, Config* config) {
  absl::string_view index = text;
  uint32_t number = 0;
  const bool numbered = absl::ConsumePrefix(&index, "cuda:") && absl::SimpleAtoi(index, &number);
  if (text != "cpu" && text != "cuda" && !numbered) return Want("cpu, cuda or cuda:N");
  config->engine.device = std::string(text);
  return absl::OkStatus();
}

// One seed for whatever a session draws: its adapter's start, dropout and tokens.
absl::Status SetSeed(absl::string_view text, Config* config) {
  uint64_t seed = 0;
  if (!absl::SimpleAtoi(text, &seed)) return Want("a whole number from 0 to 2^64-1");
  config->sessions.default_adaptation.seed = seed;
  config->sessions.default_sampling.seed = seed;
  return absl::OkStatus();
}

// ---- The table -----------------------------------------------------------------------------

constexpr int64_t kManyTokens = 1 << 24;
constexpr int64_t kMany = 1 << 20;

// Defaults of the sessions' options have no default here: the preset fills them. Their ranges
// depend on each other and are checked together, by ResolveAdaptation and ResolveSampling.
std::vector<Flag> SessionOptionFlags() {
#define ADAPT(name) FIELD(sessions.default_adaptation.name)
#define SAMPLE(name) FIELD(sessions.default_sampling.name)
  return {
      {"preset", "name", "", "where the other options start from: paper, balanced or off",
       OneOf<Preset>(
           ADAPT(preset),
           {{"paper", Preset::kPaper}, {"balanced", Preset::kBalanced}, {"off", Preset::kOff}})},
      {"rank", "int", "", "rank of an adapter", Int(ADAPT(rank), 1, kMany)},
      {"alpha", "number", "", "an adapter's output is scaled by alpha / rank", Real(ADAPT(alpha))},
      {"target_modules", "name", "", "adapted linear layers: attention, mlp or all",
       OneOf<TargetModules>(ADAPT(target_modules), {{"attention", TargetModules::kAttention},
                                                    {"mlp", TargetModules::kMlp},
                                                    {"all", TargetModules::kAll}})},
      {"first_layer", "int", "", "layers below this one carry no adapter",
       Int(ADAPT(first_layer), 0, kMany)},
      {"chunk_tokens", "int", "", "tokens that make one update",
       Int(ADAPT(chunk_tokens), 1, kManyTokens)},
      {"context_tokens", "int", "", "tokens before a chunk that are its context",
       Int(ADAPT(context_tokens), 0, kManyTokens)},
      {"epochs", "int", "", "optimizer steps a chunk", Int(ADAPT(epochs), 1, kMany)},
      {"gradient_scope", "name", "", "how far gradients reach back: window or chunk",
       OneOf<GradientScope>(ADAPT(gradient_scope), {{"window", GradientScope::kWindow},
                                                    {"chunk", GradientScope::kChunk}})},
      {"learning_rate", "number", "", "AdamW's learning rate", Real(ADAPT(learning_rate))},
      {"warmup_chunks", "int", "", "chunks over which the learning rate rises from zero",
       Int(ADAPT(warmup_chunks), 0, kMany)},
      {"weight_decay", "number", "", "AdamW's decoupled weight decay", Real(ADAPT(weight_decay))},
      {"beta1", "number", "", "AdamW's first decay rate", Real(ADAPT(beta1))},
      {"beta2", "number", "", "AdamW's second decay rate", Real(ADAPT(beta2))},
      {"eps", "number", "", "AdamW's epsilon", Real(ADAPT(eps))},
      {"grad_clip", "number", "", "global norm of a session's gradient; 0 clips nothing",
       Real(ADAPT(grad_clip))},
      {"dropout", "number", "", "dropout of the adapter's input in training", Real(ADAPT(dropout))},
      {"mode", "name", "", "whether generation waits for an update: cascaded or parallel",
       OneOf<UpdateMode>(ADAPT(mode), {{"cascaded", UpdateMode::kCascaded},
                                       {"parallel", UpdateMode::kParallel}})},
      {"max_lag_chunks", "int", "", "parallel mode: chunks collected beside the one being learned",
       Int(ADAPT(max_lag_chunks), 0, kMany)},
      {"kv_policy", "name", "", "keys and values after an update: keep, refresh or refresh_every",
       OneOf<KvPolicy>(ADAPT(kv_policy), {{"keep", KvPolicy::kKeep},
                                          {"refresh", KvPolicy::kRefresh},
                                          {"refresh_every", KvPolicy::kRefreshEvery}})},
      {"refresh_every", "int", "", "kv_policy refresh_every: updates between two refreshes",
       Int(ADAPT(refresh_every), 1, kMany)},
      {"learn_from", "name", "", "whose tokens are learned: input, output or both",
       OneOf<LearnFrom>(ADAPT(learn_from), {{"input", LearnFrom::kInput},
                                            {"output", LearnFrom::kOutput},
                                            {"both", LearnFrom::kBoth}})},
      {"output_weight", "number", "", "loss weight of the model's own tokens, 0 to 1",
       Real(ADAPT(output_weight))},
      {"receipt", "bool", "", "measure every chunk with and without its adapter",
       Bool(ADAPT(receipt))},
      {"gate", "bool", "", "drop updates whose loss rose, roll back adapters that do harm",
       Bool(ADAPT(gate))},
      {"gate_threshold", "number", "", "nats per token an adapter may be worse before a roll-back",
       Real(ADAPT(gate_threshold))},
      {"init", "name", "", "how a fresh adapter's A starts: default or activation",
       OneOf<AdapterInit>(ADAPT(init), {{"default", AdapterInit::kDefault},
                                        {"activation", AdapterInit::kActivation}})},
      {"target_inter_token_ms", "number", "",
       "learning waits while tokens come more slowly than this; 0: it never does",
       Real(ADAPT(target_inter_token_ms))},
      {"temperature", "number", "", "sampling temperature; 0 takes the most probable token",
       Real(SAMPLE(temperature))},
      {"top_p", "number", "", "keeps the smallest set of tokens that reaches this probability",
       Real(SAMPLE(top_p))},
      {"top_k", "int", "", "keeps the k most probable tokens; 0 keeps all",
       Int(SAMPLE(top_k), 0, kManyTokens)},
      {"min_p", "number", "", "keeps tokens this many times as probable as the best one",
       Real(SAMPLE(min_p))},
      {"repetition_penalty", "number", "", "divides the logits of tokens already in the window",
       Real(SAMPLE(repetition_penalty))},
      {"frequency_penalty", "number", "", "taken off a logit once per earlier occurrence",
       Real(SAMPLE(frequency_penalty))},
      {"presence_penalty", "number", "", "taken off a logit once if the token occurred",
       Real(SAMPLE(presence_penalty))},
      {"seed", "int", "", "seed of sessions that bring none; unset: each draws its own", SetSeed},
  };
#undef SAMPLE
#undef ADAPT
}

std::vector<Flag> ServerFlags() {
  return {
      {"model", "dir", "", "model in Hugging Face layout; required", Text(FIELD(engine.model_dir))},
      {"listen", "address", "127.0.0.1:7400", "gRPC: host:port or unix:path; port 0 picks one",
       Text(FIELD(listen))},
      {"http_listen", "address", "127.0.0.1:7401",
       "HTTP: /metrics, /healthz, /readyz; empty turns it off", Text(FIELD(http_listen))},
      {"health_listen", "address", "",
       "gRPC health alone, plaintext, for probes; also answers during a drain",
       Text(FIELD(health_listen))},
      {"insecure", "bool", "false",
       "allow a --listen off the loopback in plaintext or without knowing who calls",
       Bool(FIELD(insecure))},
      {"tls_cert", "file", "", "PEM: certificate chain of --listen; read again when it changes",
       Text(FIELD(tls.cert))},
      {"tls_key", "file", "", "PEM: private key of --tls_cert", Text(FIELD(tls.key))},
      {"tls_client_ca", "file", "", "PEM: clients need a certificate that one of these signed",
       Text(FIELD(tls.client_ca))},
      {"auth_tokens_file", "file", "",
       "who may call: TOKEN TENANT [admin] a line; read again when it changes",
       Text(FIELD(auth_tokens_file))},
      {"device", "name", "cpu", "cpu, cuda or cuda:N", SetDevice},
      {"dtype", "name", "bf16", "type of weights and keys and values: bf16 or fp32",
       OneOf<DType>(FIELD(engine.dtype), {{"bf16", DType::kBFloat16}, {"fp32", DType::kFloat32}})},
      {"threads", "int", "0", "threads of one pass on the CPU; 0: one a core",
       Int(FIELD(engine.threads), 0, 1024)},
      {"update_threads", "int", "0",
       "threads of an update while tokens are computed beside it; 0: half of them",
       Int(FIELD(engine.update_threads), 0, 1024)},
      {"update_tokens", "int", "1024", "tokens of the chunks that train together in one pass",
       Int(FIELD(engine.update_tokens), 1, kManyTokens)},
      {"max_update_tokens", "int", "4096", "largest training pass a session may ask for",
       Int(FIELD(engine.max_update_tokens), 1, kManyTokens)},
      {"update_group", "int", "4", "sessions that one training pass may hold",
       Int(FIELD(engine.update_group), 1, 65536)},
      {"keep_lower_layers", "bool", "false",
       "never compute again what lies below a session's first_layer; costs hidden size * 4 bytes a"
       " token of the window",
       Bool(FIELD(engine.keep_lower_layers))},
      {"deterministic", "bool", "false",
       "results depend on a session's commands alone; slower, and no mode parallel",
       Bool(FIELD(engine.deterministic))},
      {"slots", "int", "8", "rows, so sessions at once; unset with --memory_budget: what fits",
       Int(FIELD(engine.slots), 1, 65536)},
      {"memory_budget", "bytes", "0",
       "bytes of the whole process; rows are what is left of it; 0: no bound but --slots",
       Bytes(FIELD(engine.memory_budget_bytes), 0, uint64_t{1} << 50)},
      {"window_tokens", "int", "4096", "tokens a session's model sees at once",
       Int(FIELD(engine.window_tokens), 2, kManyTokens)},
      {"max_rank", "int", "64", "largest adapter rank a session may ask for",
       Int(FIELD(engine.max_rank), 1, 4096)},
      {"max_sessions_per_tenant", "int", "0", "0: no bound",
       Int(FIELD(sessions.limits.max_sessions_per_tenant), 0, kMany)},
      {"max_tokens_per_minute_per_tenant", "int", "0",
       "prompt and generated tokens, a minute's worth at once; 0: no bound",
       Int(FIELD(sessions.limits.max_tokens_per_minute_per_tenant), 0, int64_t{1} << 40)},
      {"admission_wait", "duration", "0",
       "an open waits for a row this long, tenants taking turns; 0: refused at once",
       Seconds(FIELD(sessions.limits.admission_wait_seconds))},
      {"max_waiting_sessions", "int", "256", "sessions that may wait for a row at once",
       Int(FIELD(sessions.limits.max_waiting_sessions), 1, 65536)},
      {"max_outstanding_commands", "int", "64",
       "commands of one stream that may wait or run at once",
       Int(FIELD(sessions.limits.max_outstanding_commands), 1, 65536)},
      {"max_append_tokens", "int", "65536", "tokens of one append",
       Int(FIELD(sessions.limits.max_append_tokens), 1, kManyTokens)},
      {"max_generate_tokens", "int", "16384", "tokens of one generation",
       Int(FIELD(sessions.limits.max_generate_tokens), 1, kManyTokens)},
      {"max_exports", "int", "4", "exports under way at once; each holds a copy of its row",
       Int(FIELD(sessions.limits.max_exports), 1, 65536)},
      {"idle_timeout", "duration", "0", "ends a session without work for this long; 0: never",
       Seconds(FIELD(sessions.limits.idle_timeout_seconds))},
      {"max_session_age", "duration", "0", "ends a session this old; 0: never",
       Seconds(FIELD(sessions.limits.max_session_age_seconds))},
      {"slow_reader_timeout", "duration", "60s",
       "ends a session whose client takes nothing from its full queue for this long; 0: never",
       Seconds(FIELD(sessions.limits.slow_reader_timeout_seconds))},
      {"max_connection_age", "duration", "0",
       "a connection this old takes no new calls; 0: any age, as streams are long",
       Seconds(FIELD(max_connection_age_seconds))},
      {"max_connection_age_grace", "duration", "0",
       "then its calls may go on for this long; 0: as long as they like",
       Seconds(FIELD(max_connection_age_grace_seconds))},
      {"max_message_bytes", "bytes", "1MiB", "largest message a client may send",
       Bytes(FIELD(max_message_bytes), 1 << 10, 64 << 20)},
      {"drain_timeout", "duration", "30s", "open streams may go on for this long after SIGTERM",
       Seconds(FIELD(drain_timeout_seconds))},
      {"snapshot_key_file", "file", "",
       "keys that seal snapshots, 64 hex digits a line, the first for new ones; reloaded; empty:"
       " no snapshots",
       Text(FIELD(snapshots.key_file))},
      {"snapshot_store", "store", "",
       "keeps sealed snapshots for all replicas: a directory,"
       " redis://[[user]:password@]host[:port][/database] or redis+unix://...",
       Text(FIELD(snapshots.store))},
      {"snapshot_ttl", "duration", "1h", "a snapshot can be resumed for this long",
       Seconds(FIELD(snapshots.ttl_seconds))},
      {"log_level", "name", "info", "debug, info, warning or error",
       OneOf<LogLevel>(FIELD(log_level), {{"debug", LogLevel::kDebug},
                                          {"info", LogLevel::kInfo},
                                          {"warning", LogLevel::kWarning},
                                          {"error", LogLevel::kError}})},
      {"log_format", "name", "text", "json or text",
       OneOf<LogFormat>(FIELD(log_format),
                        {{"json", LogFormat::kJson}, {"text", LogFormat::kText}})},
      {"flagfile", "file", "", "reads further flags, one a line; # starts a comment",
       // Read before any setter runs.
       [](absl::string_view, Config*) { return absl::OkStatus(); }},
      {"help", "bool", "false", "print this and exit", Bool(FIELD(help))},
      {"version", "bool", "false", "print the version and exit", Bool(FIELD(version))},
  };
}

#undef FIELD

std::vector<Flag> AllFlags() {
  std::vector<Flag> flags = ServerFlags();
  for (Flag& flag : SessionOptionFlags()) flags.push_back(std::move(flag));
  return flags;
}

const Flag* Find(const std::vector<Flag>& flags, absl::string_view name) {
  for (const Flag& flag : flags) {
    if (flag.name == name) return &flag;
  }
  return nullptr;
}

// ---- Sources -------------------------------------------------------------------------------

// What the sources say: a flag's text, and how to name it to whoever wrote it.
struct Given {
  std::string value;
  std::string shown;
};
using GivenFlags = std::map<absl::string_view, Given>;

// Reads `--name=value`, `--name value` (then `next` is set), `--bool` or `--nobool`. Returns true
// when `next` was used up.
absl::StatusOr<bool> ReadArgument(const std::vector<Flag>& flags, const std::string& argument,
                                  const std::string* next, GivenFlags* given) {
  absl::string_view text = argument;
  if (!absl::ConsumePrefix(&text, "--")) {
    return absl::InvalidArgumentError(absl::StrCat(argument, ": want --name=value"));
  }
  const size_t equals = text.find('=');
  const absl::string_view name = text.substr(0, equals);
  if (const Flag* flag = Find(flags, name); flag != nullptr) {
    if (equals != text.npos) {
      (*given)[flag->name] = {std::string(text.substr(equals + 1)), argument};
      return false;
    }
    if (flag->type == "bool") {
      (*given)[flag->name] = {"true", argument};
      return false;
    }
    if (next == nullptr)
      return absl::InvalidArgumentError(absl::StrCat(argument, ": want a value"));
    (*given)[flag->name] = {*next, absl::StrCat(argument, "=", *next)};
    return true;
  }
  const Flag* negated = absl::StartsWith(text, "no") ? Find(flags, text.substr(2)) : nullptr;
  if (negated == nullptr || negated->type != "bool") {
    return absl::InvalidArgumentError(absl::StrCat(argument, ": no such flag; see --help"));
  }
  (*given)[negated->name] = {"false", argument};
  return false;
}

absl::Status ReadCommandLine(const std::vector<Flag>& flags, const std::vector<std::string>& args,
                             GivenFlags* given) {
  for (size_t i = 0; i < args.size(); ++i) {
    const std::string* next = i + 1 < args.size() ? &args[i + 1] : nullptr;
    MAYFLY_ASSIGN_OR_RETURN(const bool used_next, ReadArgument(flags, args[i], next, given));
    if (used_next) ++i;
  }
  return absl::OkStatus();
}

// Variables that name no flag are somebody else's: a Kubernetes service called `mayfly` alone puts
// seven of them into every pod.
void ReadEnvironmentFlags(const std::vector<Flag>& flags, const Environment& env,
                          GivenFlags* given) {
  for (const Flag& flag : flags) {
    const std::string variable = absl::StrCat("MAYFLY_", absl::AsciiStrToUpper(flag.name));
    const auto found = env.find(variable);
    if (found == env.end()) continue;
    (*given)[flag.name] = {found->second, absl::StrCat(variable, "=", found->second)};
  }
}

absl::Status ReadFlagFile(const std::vector<Flag>& flags, const std::string& path,
                          GivenFlags* given) {
  std::ifstream file(path);
  if (!file)
    return absl::InvalidArgumentError(absl::StrCat("--flagfile=", path, ": cannot read it"));
  std::string line;
  for (int number = 1; std::getline(file, line); ++number) {
    const absl::string_view text = absl::StripAsciiWhitespace(line);
    if (text.empty() || text.front() == '#') continue;
    const std::string argument = absl::StrCat(absl::StartsWith(text, "--") ? "" : "--", text);
    const auto used_next = ReadArgument(flags, argument, nullptr, given);
    if (!used_next.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ":", number, ": ", used_next.status().message()));
    }
  }
  return absl::OkStatus();
}

// The strongest source of each flag.
absl::StatusOr<GivenFlags> Collect(const std::vector<Flag>& flags,
                                   const std::vector<std::string>& args, const Environment& env) {
  GivenFlags given;
  ReadEnvironmentFlags(flags, env, &given);
  MAYFLY_RETURN_IF_ERROR(ReadCommandLine(flags, args, &given));
  const auto file = given.find("flagfile");
  if (file == given.end() || file->second.value.empty()) return given;
  GivenFlags weaker;
  MAYFLY_RETURN_IF_ERROR(ReadFlagFile(flags, file->second.value, &weaker));
  given.merge(weaker);
  return given;
}

// ---- Checks between flags ------------------------------------------------------------------

absl::Status CheckAddress(absl::string_view flag, absl::string_view address, bool unix_allowed) {
  if (unix_allowed && absl::StartsWith(address, "unix:") && address.size() > 5)
    return absl::OkStatus();
  const size_t colon = address.rfind(':');
  uint32_t port = 0;
  if (colon != address.npos && colon > 0 && absl::SimpleAtoi(address.substr(colon + 1), &port) &&
      port <= 65535) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, "=", address, ": want host:port, with a port from 0 to 65535"));
}

absl::Status CheckTlsFlags(const TlsFiles& tls) {
  if (tls.cert.empty() != tls.key.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--tls_cert=", tls.cert, ": want it and --tls_key, or neither"));
  }
  if (tls.enabled() || tls.client_ca.empty()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("--tls_client_ca=", tls.client_ca, ": want --tls_cert and --tls_key with it"));
}

// Probes and metrics are for whoever reaches their ports: they hold no text, no session and no
// secret, and change nothing.
absl::Status CheckExposure(const Config& config) {
  if (config.insecure || IsLoopback(config.listen)) return absl::OkStatus();
  const bool knows_callers = !config.auth_tokens_file.empty() || !config.tls.client_ca.empty();
  if (config.tls.enabled() && knows_callers) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--listen=", config.listen, ": off the loopback want ",
      config.tls.enabled() ? "--auth_tokens_file or --tls_client_ca, or everybody may call"
                           : "--tls_cert and --tls_key, or everybody may listen",
      "; --insecure allows it"));
}

absl::Status CheckListeners(const Config& config) {
  MAYFLY_RETURN_IF_ERROR(CheckAddress("listen", config.listen, /*unix_allowed=*/true));
  if (!config.http_listen.empty()) {
    MAYFLY_RETURN_IF_ERROR(CheckAddress("http_listen", config.http_listen, /*unix_allowed=*/false));
  }
  if (!config.health_listen.empty()) {
    MAYFLY_RETURN_IF_ERROR(
        CheckAddress("health_listen", config.health_listen, /*unix_allowed=*/true));
  }
  return CheckExposure(config);
}

absl::Status CheckUpdateTokens(const EngineOptions& engine) {
  if (engine.max_update_tokens >= engine.update_tokens) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("--max_update_tokens=", engine.max_update_tokens,
                                                 ": want at least --update_tokens, ",
                                                 engine.update_tokens));
}

// Says nothing of the store's text, which may hold a password.
absl::Status CheckSnapshots(const SnapshotOptions& snapshots) {
  if (snapshots.ttl_seconds < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("--snapshot_ttl=", snapshots.ttl_seconds, ": want at least a second"));
  }
  if (snapshots.store.empty()) return absl::OkStatus();
  if (snapshots.key_file.empty()) {
    return absl::InvalidArgumentError(
        "--snapshot_store: want --snapshot_key_file too, since nothing is stored unsealed");
  }
  if (!IsRedisUrl(snapshots.store)) return absl::OkStatus();
  const absl::Status status = ParseRedisUrl(snapshots.store).status();
  if (status.ok()) return status;
  return absl::InvalidArgumentError(absl::StrCat("--snapshot_store: ", status.message()));
}

// The ranges of the sessions' options depend on each other and on the engine. What only the model
// can tell is taken as boundless here; Server::Start checks again, but a typing error should not
// have to wait for a model to load.
absl::Status CheckSessionDefaults(const Config& config) {
  EngineInfo engine;
  engine.model.layers = std::numeric_limits<int32_t>::max();
  engine.window_tokens = config.engine.window_tokens;
  engine.max_rank = config.engine.max_rank;
  engine.max_update_tokens = config.engine.max_update_tokens;
  engine.deterministic = config.engine.deterministic;
  MAYFLY_RETURN_IF_ERROR(ResolveAdaptation({}, config.sessions.default_adaptation, engine,
                                           engine.window_tokens, /*seed=*/0)
                             .status());
  return ResolveSampling({}, {}, config.sessions.default_sampling, /*seed=*/0).status();
}

absl::Status Apply(const Flag& flag, const Given& given, Config* config) {
  const absl::Status status = flag.set(given.value, config);
  if (status.ok()) return status;
  return absl::InvalidArgumentError(absl::StrCat(given.shown, ": ", status.message()));
}

}  // namespace

absl::StatusOr<Config> ParseConfig(const std::vector<std::string>& args, const Environment& env) {
  const std::vector<Flag> flags = AllFlags();
  MAYFLY_ASSIGN_OR_RETURN(const GivenFlags given, Collect(flags, args, env));
  Config config;
  for (const Flag& flag : flags) {
    const auto found = given.find(flag.name);
    if (found != given.end()) {
      MAYFLY_RETURN_IF_ERROR(Apply(flag, found->second, &config));
    } else if (!flag.default_text.empty()) {
      MAYFLY_RETURN_IF_ERROR(Apply(flag, {std::string(flag.default_text), ""}, &config));
    }
  }
  if (config.help || config.version) return config;
  if (config.engine.model_dir.empty()) {
    return absl::InvalidArgumentError("--model=: want the directory of a model");
  }
  if (config.engine.memory_budget_bytes > 0 && !given.contains("slots")) config.engine.slots = 0;
  MAYFLY_RETURN_IF_ERROR(CheckTlsFlags(config.tls));
  MAYFLY_RETURN_IF_ERROR(CheckListeners(config));
  MAYFLY_RETURN_IF_ERROR(CheckUpdateTokens(config.engine));
  MAYFLY_RETURN_IF_ERROR(CheckSnapshots(config.snapshots));
  MAYFLY_RETURN_IF_ERROR(CheckSessionDefaults(config));
  return config;
}

std::string ConfigHelp() {
  std::string text =
      "mayflyd serves streaming sessions that each learn a temporary adapter.\n\n"
      "Every flag can also be set as MAYFLY_<NAME> in the environment or in --flagfile.\n"
      "Precedence: command line, environment, flag file, default.\n\n";
  for (const Flag& flag : ServerFlags()) {
    absl::StrAppendFormat(
        &text, "  --%-24s %-9s %s%s\n", flag.name, flag.type, flag.help,
        flag.default_text.empty() ? "" : absl::StrCat(" [", flag.default_text, "]"));
  }
  absl::StrAppend(&text, "\nDefaults for sessions that do not say (unset: the preset's):\n\n");
  for (const Flag& flag : SessionOptionFlags()) {
    absl::StrAppendFormat(&text, "  --%-24s %-9s %s\n", flag.name, flag.type, flag.help);
  }
  return text;
}

Environment ReadEnvironment(const char* const* environ_pointer) {
  Environment env;
  for (; *environ_pointer != nullptr; ++environ_pointer) {
    const absl::string_view entry = *environ_pointer;
    const size_t equals = entry.find('=');
    if (!absl::StartsWith(entry, "MAYFLY_") || equals == entry.npos) continue;
    env[std::string(entry.substr(0, equals))] = std::string(entry.substr(equals + 1));
  }
  return env;
}

}  // namespace mayfly
