#include "engine/model/supported_models.h"

#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/device/torch_guard.h"
#include "engine/model/llama.h"

namespace mayfly {
namespace {

using LoadFunction = decltype(&Llama::Load);

struct SupportedModel {
  const char* architecture;
  LoadFunction load;
};

constexpr SupportedModel kSupportedModels[] = {
    {"LlamaForCausalLM", &Llama::Load},
    {"MistralForCausalLM", &Llama::Load},
    {"Qwen2ForCausalLM", &Llama::Load},
    {"Qwen3ForCausalLM", &Llama::Load},
};

absl::StatusOr<LoadFunction> FindLoader(const std::string& architecture) {
  for (const SupportedModel& model : kSupportedModels) {
    if (architecture == model.architecture) return model.load;
  }
  const std::string known = absl::StrJoin(
      std::begin(kSupportedModels), std::end(kSupportedModels), ", ",
      [](std::string* out, const SupportedModel& model) { out->append(model.architecture); });
  return absl::InvalidArgumentError(
      absl::StrCat("unknown architecture '", architecture, "', the known ones are ", known));
}

}  // namespace

absl::StatusOr<std::unique_ptr<CausalLm>> LoadModel(const std::string& dir,
                                                    const ModelConfig& config,
                                                    const Numerics& numerics,
                                                    const SlotLayout& layout,
                                                    int32_t window_tokens) {
  MAYFLY_ASSIGN_OR_RETURN(const LoadFunction load, FindLoader(config.architecture));
  MAYFLY_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(dir));
  absl::StatusOr<std::unique_ptr<CausalLm>> model = absl::InternalError("model was not loaded");
  MAYFLY_RETURN_IF_ERROR(RunGuarded("loading the model", [&] {
    model = load(config, numerics, layout, window_tokens, std::move(checkpoint));
  }));
  return model;
}

}  // namespace mayfly
