#pragma once

// What a run does to a server, read from a JSON file (comments allowed): a weighted mix of scripts,
// how sessions arrive, how long the phases are, what is promised, and where the run ends in any
// case. Plain data; docs/load.md's scenarios are made of it, tests/load/scenarios has examples.
//
// Lengths and times are a number or [low, high], drawn anew for each session. `open`, `generate`
// and `append` also take the fields of the contract's messages, in protobuf's JSON form:
//
//   {"seed": 1, "text": "docs/demo/the-lawton-girl.txt",
//    "arrivals": {"sessions_per_second": 0.5},          // or {"sessions": 8}: closed loop
//    "phases": {"ramp_seconds": 2, "warmup_seconds": 3, "steady_seconds": 20, "drain_seconds": 20},
//    "bounds": {"max_sessions": 1000, "max_open": 64},
//    "slo": {"ttft_ms": 1000, "inter_token_p99_ms": 200, "attainment": 0.99},
//    "scripts": [
//      {"name": "reader", "weight": 3, "open": {"adaptation": {"preset": "PRESET_BALANCED"}},
//       "steps": [
//         {"repeat": 4, "steps": [
//           {"append": {"text_bytes": [200, 300], "score": true}},    // or "tokens": random ids
//           {"generate": {"max_tokens": 32, "sampling": {"temperature": 1}}},
//           {"think": [0.5, 2]}]},
//         {"teach": {"text_bytes": 1000}},        // append, then learn at once
//         {"generate": {"max_tokens": 64, "cancel_after_tokens": 8}}]},
//      {"name": "slow", "weight": 1, "steps": [
//         {"generate": {"max_tokens": 64, "read_pause_ms": 50}}]},
//      {"name": "gone", "weight": 1, "deadline_seconds": 5, "end": "half_close", "steps": [
//         {"generate": {"max_tokens": 64, "vanish_after_tokens": 8}}]}]}

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "mayfly/v1/session.pb.h"
#include "tests/load/draw.h"
#include "tests/load/slo.h"

namespace mayfly::load {

struct AppendStep {
  // One of the two: an excerpt of the scenario's text, or random token ids.
  std::optional<Range> text_bytes;
  std::optional<Range> tokens;
  // Without its input.
  v1::Append message;
  // Learn what was collected as soon as it is appended.
  bool learn_now = false;
};

struct GenerateStep {
  Range max_tokens;
  // Without its max_tokens.
  v1::Generate message;
  std::optional<Range> cancel_after_tokens;
  // Ends the call without a word.
  std::optional<Range> vanish_after_tokens;
  // Between two reads; above zero the client is a slow reader.
  double read_pause_seconds = 0;
};

struct ThinkStep {
  Range seconds;
};

// Ends the call without a word.
struct VanishStep {};

using Step = std::variant<AppendStep, GenerateStep, ThinkStep, VanishStep>;

struct Script {
  std::string name;
  double weight = 1;
  v1::Open open;
  // Of the call, from its start.
  std::optional<double> deadline_seconds;
  // Lets what was sent finish instead of closing at once.
  bool half_close = false;
  // Repeats are written out.
  std::vector<Step> steps;
};

struct Arrivals {
  // Above zero: open loop, Poisson. Otherwise `sessions` clients, closed loop.
  double sessions_per_second = 0;
  uint64_t sessions = 0;

  bool open_loop() const { return sessions_per_second > 0; }
};

// One after the other. What begins in the steady phase is measured. In the drain the load goes on
// until that has ended, so that no turn ends under less of it than there was; then each session
// ends where its turn does. What is left when the drain is over is cut.
struct Phases {
  double ramp_seconds = 0;
  double warmup_seconds = 0;
  double steady_seconds = 30;
  double drain_seconds = 30;

  double measured_from() const { return ramp_seconds + warmup_seconds; }
  double measured_to() const { return measured_from() + steady_seconds; }
};

struct Scenario {
  uint64_t seed = 1;
  // The file that excerpts are taken from.
  std::string text_file;
  Arrivals arrivals;
  Phases phases;
  // Sessions that are begun at most, in all and at once.
  uint64_t max_sessions = 10000;
  uint64_t max_open = 256;
  Slo slo;
  std::vector<Script> scripts;
};

// An error names the place, the value and what it takes: "scripts[0].weight takes a number from 0
// to 1000000, not -1".
absl::StatusOr<Scenario> ParseScenario(const std::string& json);

}  // namespace mayfly::load
