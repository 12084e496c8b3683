#include "engine/pool/slot_layout.h"

namespace mayfly {

const char* ModuleName(Module module) {
  switch (module) {
    case Module::kQ: return "q_proj";
    case Module::kK: return "k_proj";
    case Module::kV: return "v_proj";
    case Module::kO: return "o_proj";
    case Module::kGate: return "gate_proj";
    case Module::kUp: return "up_proj";
    case Module::kDown: return "down_proj";
  }
  return "";
}

bool IsTarget(TargetModules targets, Module module) {
  const bool mlp = module >= Module::kGate;
  return targets == TargetModules::kAll || (targets == TargetModules::kMlp) == mlp;
}

SlotLayout::SlotLayout(const ModelConfig& model, int32_t max_rank, int32_t window_tokens,
                       int weight_bytes, bool keep_inputs)
    : layers_(model.layers), max_rank_(max_rank), weight_bytes_(weight_bytes) {
  const int32_t q = model.heads * model.head_dim;
  const int32_t kv = model.kv_heads * model.head_dim;
  shapes_ = {{{model.hidden, q},
              {model.hidden, kv},
              {model.hidden, kv},
              {q, model.hidden},
              {model.hidden, model.intermediate},
              {model.hidden, model.intermediate},
              {model.intermediate, model.hidden}}};
  const auto place = [this](int32_t width) {
    const AdapterTensor tensor{adapter_elements_, width};
    adapter_elements_ += static_cast<int64_t>(max_rank_) * width;
    return tensor;
  };
  for (int32_t layer = 0; layer < layers_; ++layer) {
    for (const ModuleShape& s : shapes_) {
      const AdapterTensor a = place(s.in);
      pairs_.push_back({a, place(s.out)});
    }
  }
  kv_elements_ = static_cast<int64_t>(layers_) * window_tokens * kv;
  if (keep_inputs) {
    input_bytes_ =
        sizeof(float) * static_cast<uint64_t>(window_tokens) * static_cast<uint64_t>(model.hidden);
  }
}

std::vector<Span> SlotLayout::ActiveSpans(const AdapterSpec& adapter) const {
  std::vector<Span> spans;
  if (!adapter.enabled()) return spans;
  for (int32_t layer = adapter.first_layer; layer < layers_; ++layer) {
    for (const Module module : kAllModules) {
      if (!IsTarget(adapter.target_modules, module)) continue;
      for (const AdapterTensor& t : {pair(layer, module).a, pair(layer, module).b}) {
        spans.push_back({t.offset, static_cast<int64_t>(adapter.rank) * t.width});
      }
    }
  }
  return spans;
}

int64_t SlotLayout::ActiveElements(const AdapterSpec& adapter) const {
  int64_t elements = 0;
  for (const Span& span : ActiveSpans(adapter)) elements += span.count;
  return elements;
}

RowBytes SlotLayout::row_bytes() const {
  const uint64_t adapter = static_cast<uint64_t>(adapter_elements_);
  return {.kv = 2 * static_cast<uint64_t>(kv_elements_) * weight_bytes_ + input_bytes_,
          .adapter = adapter * (2 * weight_bytes_ + sizeof(float)),
          .optimizer = adapter * 3 * sizeof(float)};
}

}  // namespace mayfly
