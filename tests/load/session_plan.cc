#include "tests/load/session_plan.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "client/document.h"
#include "tests/load/draw.h"

namespace mayfly::load {
namespace {

// As heavy as it says among all.
const Script& PickScript(const std::vector<Script>& scripts, Draw* draw) {
  double weights = 0;
  for (const Script& script : scripts) weights += script.weight;
  double left = draw->Uniform() * weights;
  const Script* picked = nullptr;
  for (const Script& script : scripts) {
    if (script.weight <= 0) continue;
    picked = &script;
    if (left < script.weight) break;
    left -= script.weight;
  }
  return *picked;
}

// About `bytes` of the text from a line of the draw's choice on, as often around as it takes.
std::string Excerpt(const std::string& text, size_t bytes, Draw* draw) {
  const size_t line = text.find('\n', draw->Below(text.size()));
  absl::string_view rest = absl::string_view(text).substr(line == std::string::npos ? 0 : line);
  std::string excerpt;
  while (excerpt.size() < bytes) {
    const absl::string_view piece = cli::FirstPiece(rest, bytes - excerpt.size());
    // A piece is never empty, but may be longer than was left: a character is not cut.
    absl::StrAppend(&excerpt, piece);
    rest = rest.size() > piece.size() ? rest.substr(piece.size()) : absl::string_view(text);
  }
  return excerpt;
}

v1::SessionRequest Append(const AppendStep& step, const Material& material, Draw* draw) {
  v1::SessionRequest request;
  *request.mutable_append() = step.message;
  if (step.text_bytes) {
    request.mutable_append()->set_text(Excerpt(material.text, draw->Whole(*step.text_bytes), draw));
  } else {
    const uint64_t count = draw->Whole(*step.tokens);
    v1::TokenIds* ids = request.mutable_append()->mutable_token_ids();
    for (uint64_t i = 0; i < count; ++i) {
      ids->add_ids(static_cast<uint32_t>(draw->Below(material.vocabulary)));
    }
  }
  return request;
}

class Planner {
 public:
  Planner(const Material& material, Draw* draw, std::vector<Action>* actions)
      : material_(material), draw_(draw), actions_(actions) {}

  void operator()(const AppendStep& step) {
    actions_->push_back(SendAction{Append(step, material_, draw_)});
    if (!step.learn_now) return;
    v1::SessionRequest request;
    request.mutable_adapt()->set_action(v1::ADAPT_ACTION_UPDATE_NOW);
    actions_->push_back(SendAction{std::move(request)});
  }
  void operator()(const GenerateStep& step) {
    GenerateAction action;
    action.generate = step.message;
    action.generate.set_max_tokens(static_cast<uint32_t>(draw_->Whole(step.max_tokens)));
    if (step.cancel_after_tokens) {
      action.cancel_after_tokens = draw_->Whole(*step.cancel_after_tokens);
    }
    if (step.vanish_after_tokens) {
      action.vanish_after_tokens = draw_->Whole(*step.vanish_after_tokens);
    }
    action.read_pause_seconds = step.read_pause_seconds;
    actions_->push_back(std::move(action));
  }
  void operator()(const ThinkStep& step) {
    actions_->push_back(ThinkAction{draw_->Between(step.seconds)});
  }
  void operator()(const VanishStep&) { actions_->push_back(VanishAction{}); }

 private:
  const Material& material_;
  Draw* const draw_;
  std::vector<Action>* const actions_;
};

}  // namespace

SessionPlan PlanSession(const Scenario& scenario, const Material& material, uint64_t number) {
  Draw draw(scenario.seed, number);
  const Script& script = PickScript(scenario.scripts, &draw);
  SessionPlan plan{script.name, script.open, script.deadline_seconds, script.half_close, {}};
  if (!plan.open.has_seed()) plan.open.set_seed(draw.Below(uint64_t{1} << 32));
  Planner planner(material, &draw, &plan.actions);
  for (const Step& step : script.steps) std::visit(planner, step);
  return plan;
}

}  // namespace mayfly::load
