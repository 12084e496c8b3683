#include "session/peft_files.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/string_view.h"

namespace mayfly {
namespace {

// The header is padded so that the tensors lie aligned.
constexpr size_t kAlignment = 8;

// The part of [offset, offset + most) that lies in `piece`, which begins at `begin`.
void AppendPart(absl::string_view piece, uint64_t begin, uint64_t offset, size_t most,
                std::string* out) {
  const uint64_t from = std::max(begin, offset);
  const uint64_t to = std::min<uint64_t>(begin + piece.size(), offset + most);
  if (from < to) absl::StrAppend(out, piece.substr(from - begin, to - from));
}

std::string SafetensorsHead(const RowState& state) {
  std::vector<std::string> entries = {R"("__metadata__":{"format":"pt"})"};
  uint64_t begin = 0;
  for (const TensorBytes& tensor : state.tensors) {
    const uint64_t end = begin + tensor.bytes.size();
    entries.push_back(absl::StrCat("\"", tensor.name, "\":{\"dtype\":\"",
                                   tensor.type == DType::kBFloat16 ? "BF16" : "F32",
                                   "\",\"shape\":[", absl::StrJoin(tensor.shape, ","),
                                   "],\"data_offsets\":[", begin, ",", end, "]}"));
    begin = end;
  }
  std::string json = absl::StrCat("{", absl::StrJoin(entries, ","), "}");
  json.resize((json.size() + kAlignment - 1) / kAlignment * kAlignment, ' ');
  const uint64_t length = json.size();
  return std::string(reinterpret_cast<const char*>(&length), sizeof(length)) + json;
}

std::string JsonText(absl::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    if (static_cast<unsigned char>(c) >= ' ') quoted += c;
  }
  return quoted + "\"";
}

std::string TargetNames(TargetModules targets) {
  const char* const attention = R"("q_proj","k_proj","v_proj","o_proj")";
  const char* const mlp = R"("gate_proj","up_proj","down_proj")";
  switch (targets) {
    case TargetModules::kAttention: return attention;
    case TargetModules::kMlp: return mlp;
    case TargetModules::kAll: return absl::StrCat(attention, ",", mlp);
  }
  return "";
}

// The layers that carry an adapter, where not all do.
std::string LayersToTransform(int32_t first_layer, int32_t layers) {
  if (first_layer == 0) return "null";
  std::vector<int32_t> adapted;
  for (int32_t layer = first_layer; layer < layers; ++layer) adapted.push_back(layer);
  return absl::StrCat("[", absl::StrJoin(adapted, ","), "]");
}

std::string ConfigJson(const AdapterSpec& spec, const ModelInfo& model) {
  return absl::StrCat(R"({
  "peft_type": "LORA",
  "task_type": "CAUSAL_LM",
  "base_model_name_or_path": )",
                      JsonText(model.name), R"(,
  "bias": "none",
  "fan_in_fan_out": false,
  "inference_mode": true,
  "init_lora_weights": true,
  "layers_pattern": null,
  "layers_to_transform": )",
                      LayersToTransform(spec.first_layer, model.layers), R"(,
  "lora_alpha": )",
                      spec.alpha, R"(,
  "lora_dropout": 0.0,
  "modules_to_save": null,
  "r": )",
                      spec.rank, R"(,
  "target_modules": [)",
                      TargetNames(spec.target_modules), R"(],
  "use_dora": false,
  "use_rslora": false
}
)");
}

}  // namespace

ExportFile::ExportFile(std::string file_name, std::string head,
                       std::shared_ptr<const RowState> tensors)
    : name(std::move(file_name)),
      head_(std::move(head)),
      tensors_(std::move(tensors)),
      bytes_(head_.size()) {
  if (tensors_ == nullptr) return;
  for (const TensorBytes& tensor : tensors_->tensors) bytes_ += tensor.bytes.size();
}

std::string ExportFile::Read(uint64_t offset, size_t most) const {
  std::string part;
  part.reserve(std::min<uint64_t>(most, bytes_ - std::min(offset, bytes_)));
  AppendPart(head_, 0, offset, most, &part);
  if (tensors_ == nullptr) return part;
  uint64_t begin = head_.size();
  for (const TensorBytes& tensor : tensors_->tensors) {
    AppendPart(tensor.bytes, begin, offset, most, &part);
    begin += tensor.bytes.size();
  }
  return part;
}

std::vector<ExportFile> PeftFiles(std::shared_ptr<const RowState> adapter, const AdapterSpec& spec,
                                  const ModelInfo& model) {
  std::string head = SafetensorsHead(*adapter);
  return {ExportFile("adapter_config.json", ConfigJson(spec, model)),
          ExportFile("adapter_model.safetensors", std::move(head), std::move(adapter))};
}

}  // namespace mayfly
