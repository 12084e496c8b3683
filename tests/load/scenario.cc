#include "tests/load/scenario.h"

#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "tests/load/json_reader.h"

namespace mayfly::load {
namespace {

// Bounds of what a scenario may ask for: a run ends, and fits the client's memory.
constexpr double kMaxPhaseSeconds = 3600;
constexpr double kMaxRate = 100'000;
constexpr double kMaxTokens = 1'000'000;
constexpr double kMaxTextBytes = 1 << 20;
constexpr double kMaxThinkSeconds = 3600;
constexpr double kMaxLatencyMs = 3'600'000;
constexpr double kMaxWeight = 1'000'000;
constexpr uint64_t kMaxSessions = 1'000'000;
constexpr uint64_t kMaxOpen = 10'000;
constexpr uint64_t kMaxRepeats = 1'000;
constexpr size_t kMaxSteps = 10'000;

void ReadArrivals(const Json& json, absl::Status* status, Arrivals* arrivals) {
  JsonReader reader(json, "arrivals", status);
  reader.Number("sessions_per_second", 0.0001, kMaxRate, &arrivals->sessions_per_second);
  reader.Whole("sessions", 1, kMaxOpen, &arrivals->sessions);
  reader.ExpectNoMore();
  if (arrivals->open_loop() == (arrivals->sessions > 0)) {
    reader.Fail("arrivals", "takes sessions_per_second (open loop) or sessions (closed loop)");
  }
}

void ReadPhases(const Json& json, absl::Status* status, Phases* phases) {
  JsonReader reader(json, "phases", status);
  reader.Number("ramp_seconds", 0, kMaxPhaseSeconds, &phases->ramp_seconds);
  reader.Number("warmup_seconds", 0, kMaxPhaseSeconds, &phases->warmup_seconds);
  reader.Number("steady_seconds", 0.001, kMaxPhaseSeconds, &phases->steady_seconds);
  reader.Number("drain_seconds", 0, kMaxPhaseSeconds, &phases->drain_seconds);
  reader.ExpectNoMore();
}

void ReadBounds(const Json& json, absl::Status* status, Scenario* scenario) {
  JsonReader reader(json, "bounds", status);
  reader.Whole("max_sessions", 1, kMaxSessions, &scenario->max_sessions);
  reader.Whole("max_open", 1, kMaxOpen, &scenario->max_open);
  reader.ExpectNoMore();
}

void ReadSlo(const Json& json, absl::Status* status, Slo* slo) {
  JsonReader reader(json, "slo", status);
  double ttft_ms = slo->ttft_seconds * 1e3, gap_ms = slo->inter_token_p99_seconds * 1e3;
  reader.Number("ttft_ms", 0, kMaxLatencyMs, &ttft_ms);
  reader.Number("inter_token_p99_ms", 0, kMaxLatencyMs, &gap_ms);
  reader.Number("attainment", 0, 1, &slo->attainment);
  reader.ExpectNoMore();
  slo->ttft_seconds = ttft_ms * 1e-3;
  slo->inter_token_p99_seconds = gap_ms * 1e-3;
}

AppendStep ReadAppend(const Json& json, const std::string& path, absl::Status* status) {
  JsonReader reader(json, path, status);
  AppendStep step;
  reader.OneOrTwo("text_bytes", 1, kMaxTextBytes, &step.text_bytes);
  reader.OneOrTwo("tokens", 1, kMaxTokens, &step.tokens);
  reader.Rest(&step.message);
  if (step.text_bytes.has_value() == step.tokens.has_value()) {
    reader.Fail(path, "takes text_bytes or tokens");
  }
  if (step.message.input_case() != v1::Append::INPUT_NOT_SET) {
    reader.Fail(path, "takes its input from text_bytes or tokens");
  }
  return step;
}

GenerateStep ReadGenerate(const Json& json, const std::string& path, absl::Status* status) {
  JsonReader reader(json, path, status);
  GenerateStep step;
  std::optional<Range> max_tokens;
  double pause_ms = 0;
  // Lengths are the scenario's, not the model's, unless it says so.
  bool ignore_eos = true;
  reader.OneOrTwo("max_tokens", 1, kMaxTokens, &max_tokens);
  reader.OneOrTwo("cancel_after_tokens", 1, kMaxTokens, &step.cancel_after_tokens);
  reader.OneOrTwo("vanish_after_tokens", 1, kMaxTokens, &step.vanish_after_tokens);
  reader.Number("read_pause_ms", 0, kMaxThinkSeconds * 1e3, &pause_ms);
  reader.Flag("ignore_eos", &ignore_eos);
  reader.Rest(&step.message);
  step.message.set_ignore_eos(ignore_eos);
  if (!max_tokens) reader.Fail(path, "needs max_tokens");
  step.max_tokens = max_tokens.value_or(Range{});
  step.read_pause_seconds = pause_ms * 1e-3;
  return step;
}

void ReadSteps(const Json* json, const std::string& path, absl::Status* status,
               std::vector<Step>* steps);

void ReadRepeat(JsonReader* reader, absl::Status* status, std::vector<Step>* steps) {
  uint64_t times = 0;
  std::vector<Step> repeated;
  reader->Whole("repeat", 1, kMaxRepeats, &times);
  ReadSteps(reader->Member("steps"), reader->PathOf("steps"), status, &repeated);
  if (repeated.size() * times > kMaxSteps) {
    return reader->Fail(reader->path(), absl::StrCat("has ", repeated.size() * times,
                                                     " steps, the limit is ", kMaxSteps));
  }
  for (uint64_t i = 0; i < times; ++i) {
    steps->insert(steps->end(), repeated.begin(), repeated.end());
  }
}

void ReadStep(const Json& json, const std::string& path, absl::Status* status,
              std::vector<Step>* steps) {
  JsonReader reader(json, path, status);
  if (!reader.ok()) return;
  std::optional<Range> think;
  bool vanish = false;
  if (json.contains("repeat")) {
    ReadRepeat(&reader, status, steps);
  } else if (const Json* append = reader.Member("append")) {
    steps->push_back(ReadAppend(*append, reader.PathOf("append"), status));
  } else if (const Json* teach = reader.Member("teach")) {
    AppendStep step = ReadAppend(*teach, reader.PathOf("teach"), status);
    step.learn_now = true;
    steps->push_back(std::move(step));
  } else if (const Json* generate = reader.Member("generate")) {
    steps->push_back(ReadGenerate(*generate, reader.PathOf("generate"), status));
  } else if (json.contains("think")) {
    reader.OneOrTwo("think", 0, kMaxThinkSeconds, &think);
    steps->push_back(ThinkStep{think.value_or(Range{})});
  } else if (json.contains("vanish")) {
    reader.Flag("vanish", &vanish);
    steps->push_back(VanishStep{});
  } else {
    reader.Fail(path, "takes append, generate, teach, think, vanish or repeat");
  }
  reader.ExpectNoMore();
}

void ReadSteps(const Json* json, const std::string& path, absl::Status* status,
               std::vector<Step>* steps) {
  if (!status->ok()) return;
  if (json == nullptr || !json->is_array() || json->empty()) {
    *status = absl::InvalidArgumentError(absl::StrCat(path, " takes a list of steps"));
    return;
  }
  for (size_t i = 0; i < json->size(); ++i) {
    ReadStep((*json)[i], absl::StrCat(path, "[", i, "]"), status, steps);
  }
}

Script ReadScript(const Json& json, const std::string& path, absl::Status* status) {
  JsonReader reader(json, path, status);
  Script script;
  std::string end = "close";
  reader.Text("name", &script.name);
  reader.Number("weight", 0, kMaxWeight, &script.weight);
  reader.Number("deadline_seconds", 0.001, kMaxPhaseSeconds, &script.deadline_seconds);
  reader.Text("end", &end);
  if (const Json* open = reader.Member("open")) {
    JsonReader(*open, reader.PathOf("open"), status).Rest(&script.open);
  }
  ReadSteps(reader.Member("steps"), reader.PathOf("steps"), status, &script.steps);
  reader.ExpectNoMore();
  if (script.name.empty()) reader.Fail(path, "needs a name");
  if (end != "close" && end != "half_close") {
    reader.Fail(reader.PathOf("end"), absl::StrCat("takes close or half_close, not ", end));
  }
  script.half_close = end == "half_close";
  return script;
}

void ReadScripts(const Json* json, absl::Status* status, Scenario* scenario) {
  if (!status->ok()) return;
  if (json == nullptr || !json->is_array()) {
    *status = absl::InvalidArgumentError("scripts takes a list of scripts");
    return;
  }
  double weights = 0;
  for (size_t i = 0; i < json->size(); ++i) {
    scenario->scripts.push_back(ReadScript((*json)[i], absl::StrCat("scripts[", i, "]"), status));
    weights += scenario->scripts.back().weight;
  }
  if (status->ok() && weights <= 0) {
    *status = absl::InvalidArgumentError("scripts needs one whose weight is above 0");
  }
}

bool NeedsText(const Scenario& scenario) {
  for (const Script& script : scenario.scripts) {
    for (const Step& step : script.steps) {
      const auto* append = std::get_if<AppendStep>(&step);
      if (append != nullptr && append->text_bytes) return true;
    }
  }
  return false;
}

absl::StatusOr<Json> ParseJson(const std::string& text) {
  try {
    return Json::parse(text, nullptr, /*allow_exceptions=*/true, /*ignore_comments=*/true);
  } catch (const Json::parse_error& error) {
    return absl::InvalidArgumentError(error.what());
  }
}

}  // namespace

absl::StatusOr<Scenario> ParseScenario(const std::string& json) {
  MAYFLY_ASSIGN_OR_RETURN(const Json parsed, ParseJson(json));
  absl::Status status;
  Scenario scenario;
  JsonReader reader(parsed, "", &status);
  reader.Whole("seed", 0, UINT64_MAX, &scenario.seed);
  reader.Text("text", &scenario.text_file);
  if (const Json* arrivals = reader.Member("arrivals")) {
    ReadArrivals(*arrivals, &status, &scenario.arrivals);
  } else {
    reader.Fail("arrivals", "is missing");
  }
  if (const Json* phases = reader.Member("phases")) ReadPhases(*phases, &status, &scenario.phases);
  if (const Json* bounds = reader.Member("bounds")) ReadBounds(*bounds, &status, &scenario);
  if (const Json* slo = reader.Member("slo")) ReadSlo(*slo, &status, &scenario.slo);
  ReadScripts(reader.Member("scripts"), &status, &scenario);
  reader.ExpectNoMore();
  MAYFLY_RETURN_IF_ERROR(status);
  if (NeedsText(scenario) && scenario.text_file.empty()) {
    return absl::InvalidArgumentError("text is missing: the file that text_bytes are taken from");
  }
  return scenario;
}

}  // namespace mayfly::load
