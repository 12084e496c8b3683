#include "engine/create_engine.h"

#include <filesystem>
#include <utility>

#include <ATen/ATen.h>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/device/open_device.h"
#include "engine/device/team.h"
#include "engine/device/torch_guard.h"
#include "engine/model/checkpoint.h"
#include "engine/model/supported_models.h"
#include "engine/pool/memory_plan.h"
#include "engine/runtime/engine_loop.h"

namespace mayfly {
namespace {

std::string ModelName(const std::string& dir) {
  const std::filesystem::path path = std::filesystem::path(dir).lexically_normal();
  return (path.has_filename() ? path : path.parent_path()).filename().string();
}

// NOT_FOUND only means that the model has no template.
absl::StatusOr<std::unique_ptr<ChatTemplate>> LoadChatTemplate(const std::string& dir) {
  absl::StatusOr<std::unique_ptr<ChatTemplate>> chat_template = ChatTemplate::Load(dir);
  if (absl::IsNotFound(chat_template.status())) return std::unique_ptr<ChatTemplate>();
  return chat_template;
}

absl::Status LoadText(const std::string& dir, int32_t vocabulary, EngineParts* parts) {
  MAYFLY_ASSIGN_OR_RETURN(parts->tokenizer, Tokenizer::Load(dir));
  if (parts->tokenizer->vocabulary_size() > vocabulary) {
    return absl::InvalidArgumentError(
        absl::StrCat("wrong tokenizer: it has ", parts->tokenizer->vocabulary_size(),
                     " tokens, the model's vocabulary has ", vocabulary));
  }
  MAYFLY_ASSIGN_OR_RETURN(parts->chat_template, LoadChatTemplate(dir));
  return absl::OkStatus();
}

absl::Status PlanRows(const ModelConfig& config, const EngineOptions& options,
                      uint64_t process_bytes, EngineParts* parts) {
  EngineInfo& info = parts->info;
  const Numerics& numerics = parts->numerics;
  info.row_bytes = parts->layout->row_bytes();
  info.memory = PlanMemory(config, *parts->layout, options,
                           static_cast<int>(at::elementSize(numerics.matrix)), process_bytes,
                           parts->model->parameters() * at::elementSize(numerics.weights));
  MAYFLY_ASSIGN_OR_RETURN(info.rows, CountRows(options, info.memory, info.row_bytes.total()));
  info.memory.rows = static_cast<uint64_t>(info.rows) * info.row_bytes.total();
  return absl::OkStatus();
}

absl::Status AllocatePools(const ModelConfig& config, const EngineOptions& options,
                           EngineParts* parts) {
  return RunGuarded("allocating the rows", [&] {
    parts->kv = std::make_unique<KvPool>(config, parts->numerics, parts->info.rows,
                                         options.window_tokens, options.keep_lower_layers);
    parts->adapters =
        std::make_unique<AdapterPool>(*parts->layout, parts->numerics, parts->info.rows);
  });
}

EngineInfo MakeInfo(const EngineOptions& options, const ModelConfig& config, const CausalLm& model,
                    uint64_t fingerprint, bool has_chat_template) {
  EngineInfo info;
  info.model = {ModelName(options.model_dir),
                config.architecture,
                model.parameters(),
                fingerprint,
                config.vocabulary,
                config.layers,
                config.max_positions,
                has_chat_template};
  info.device = options.device;
  info.dtype = options.dtype == DType::kBFloat16 ? "bf16" : "fp32";
  info.window_tokens = options.window_tokens;
  info.max_rank = options.max_rank;
  info.max_update_tokens = options.max_update_tokens;
  info.deterministic = options.deterministic;
  info.eos_token_ids = config.eos_token_ids;
  return info;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> CreateEngine(const EngineOptions& options,
                                                     EngineMetrics* metrics, const Logger* logger,
                                                     const Clock* clock) {
  MAYFLY_RETURN_IF_ERROR(options.Validate());
  ShareOneHeap();
  MAYFLY_ASSIGN_OR_RETURN(const ModelConfig config, LoadModelConfig(options.model_dir));
  EngineParts parts;
  MAYFLY_RETURN_IF_ERROR(LoadText(options.model_dir, config.vocabulary, &parts));
  const uint64_t process_bytes = ResidentBytes();
  MAYFLY_ASSIGN_OR_RETURN(const OpenedDevice opened, OpenDevice(options.device));
  if (!opened.note.empty()) logger->Warning("plain_device", {{"reason", opened.note}});
  parts.numerics = NumericsFor(opened.device, options.dtype);
  parts.numerics.ops = opened.ops;
  SetShares(options, &parts);
  parts.layout = std::make_unique<SlotLayout>(
      config, options.max_rank, options.window_tokens,
      static_cast<int>(at::elementSize(parts.numerics.weights)), options.keep_lower_layers);
  MAYFLY_ASSIGN_OR_RETURN(parts.model, LoadModel(options.model_dir, config, parts.numerics,
                                                 *parts.layout, options.window_tokens));
  MAYFLY_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(options.model_dir));
  parts.info = MakeInfo(options, config, *parts.model, checkpoint.Fingerprint(),
                        parts.chat_template != nullptr);
  MAYFLY_RETURN_IF_ERROR(PlanRows(config, options, process_bytes, &parts));
  MAYFLY_RETURN_IF_ERROR(AllocatePools(config, options, &parts));
  ReturnFreeMemory();
  ReleaseTeam();  // this thread has loaded the model in parallel, and will not do so again
  return std::make_unique<EngineLoop>(std::move(parts), metrics, logger, clock);
}

}  // namespace mayfly
