#pragma once

// One session of a run with everything drawn: which script, how many tokens, which text. Pure: the
// scenario's seed and the session's number decide it, whatever the server does.

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "mayfly/v1/session.pb.h"
#include "tests/load/scenario.h"

namespace mayfly::load {

// A command whose answer is awaited.
struct SendAction {
  v1::SessionRequest request;
};

struct GenerateAction {
  v1::Generate generate;
  // Absent: never.
  std::optional<uint64_t> cancel_after_tokens;
  std::optional<uint64_t> vanish_after_tokens;
  double read_pause_seconds = 0;
};

struct ThinkAction {
  double seconds = 0;
};

struct VanishAction {};

using Action = std::variant<SendAction, GenerateAction, ThinkAction, VanishAction>;

struct SessionPlan {
  std::string script;
  v1::Open open;
  std::optional<double> deadline_seconds;
  bool half_close = false;
  std::vector<Action> actions;
};

// What sessions append from.
struct Material {
  // UTF-8; empty only if no script appends text.
  std::string text;
  // Random token ids lie below it.
  uint32_t vocabulary = 1;
};

SessionPlan PlanSession(const Scenario& scenario, const Material& material, uint64_t number);

}  // namespace mayfly::load
