#include "engine/runtime/row_transfer.h"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"

namespace mayfly {
namespace {

// The names that Hugging Face's decoders give to a layer's linear modules; PEFT puts its own prefix
// before them.
std::string PeftName(int32_t layer, Module module, const char* matrix) {
  const char* const block = module >= Module::kGate ? "mlp" : "self_attn";
  return absl::StrCat("base_model.model.model.layers.", layer, ".", block, ".", ModuleName(module),
                      ".", matrix, ".weight");
}

DType TypeOf(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kBFloat16 ? DType::kBFloat16 : DType::kFloat32;
}

TensorBytes ToBytes(std::string name, const at::Tensor& tensor) {
  const at::Tensor host = tensor.cpu().contiguous();
  return {std::move(name), TypeOf(host), host.sizes().vec(),
          std::string(static_cast<const char*>(host.const_data_ptr()), host.nbytes())};
}

// A part of a row that travels: where it lies, as one tensor or as spans of one.
struct Part {
  const char* name;
  at::Tensor place;
};

// Keys, values and inputs of the positions that were ever fed.
std::vector<Part> WindowParts(int64_t row, int64_t positions, const KvPool& kv) {
  std::vector<Part> parts = {{"keys", kv.AllKeys(row).narrow(2, 0, positions)},
                             {"values", kv.AllValues(row).narrow(2, 0, positions)}};
  if (kv.keeps_inputs()) parts.push_back({"inputs", kv.Inputs(row).narrow(0, 0, positions)});
  return parts;
}

std::vector<Part> AdapterParts(const AdapterState& state) {
  return {{"master", state.master},
          {"moment1", state.moment1},
          {"moment2", state.moment2},
          {"checkpoint", state.checkpoint}};
}

at::Tensor Gather(const std::vector<Span>& spans, const at::Tensor& row) {
  std::vector<at::Tensor> used;
  for (const Span& span : spans) used.push_back(row.narrow(0, span.offset, span.count));
  return at::cat(used);
}

void Scatter(const std::vector<Span>& spans, const at::Tensor& from, const at::Tensor& row) {
  int64_t begin = 0;
  for (const Span& span : spans) {
    row.narrow(0, span.offset, span.count).copy_(from.narrow(0, begin, span.count));
    begin += span.count;
  }
}

// A view of the tensor's bytes, which outlive it.
at::Tensor FromBytes(const TensorBytes& tensor) {
  const at::ScalarType type = tensor.type == DType::kBFloat16 ? at::kBFloat16 : at::kFloat;
  return at::from_blob(const_cast<char*>(tensor.bytes.data()), tensor.shape,
                       at::TensorOptions().dtype(type));
}

absl::Status CheckTensor(const TensorBytes& tensor, at::IntArrayRef shape, DType type) {
  if (at::IntArrayRef(tensor.shape) != shape || tensor.type != type) {
    return absl::InvalidArgumentError(absl::StrCat(
        "tensor ", tensor.name, " has shape [", absl::StrJoin(tensor.shape, ", "),
        "] or a type that this row has not, whose shape is [", absl::StrJoin(shape, ", "), "]"));
  }
  int64_t bytes = type == DType::kBFloat16 ? 2 : 4;
  for (const int64_t size : shape) bytes *= size;
  if (static_cast<int64_t>(tensor.bytes.size()) == bytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("tensor ", tensor.name, " has ",
                                                 tensor.bytes.size(), " bytes instead of ", bytes));
}

absl::Status CheckLengths(const RowState& state, const Sequence& sequence, const KvPool& kv) {
  const int64_t size = static_cast<int64_t>(state.tokens.size());
  const int64_t fed = std::max<int64_t>(0, size - 1);
  const bool lower_fits = state.lower_length == 0 || kv.keeps_inputs();
  if (size > sequence.options.window_tokens || state.kv_length < 0 || state.kv_length > fed ||
      state.lower_length < 0 || state.lower_length > fed || !lower_fits ||
      state.optimizer_steps < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        size, " tokens of which ", state.kv_length, " (lower layers ", state.lower_length,
        ") are computed do not fit a window of ", sequence.options.window_tokens));
  }
  return absl::OkStatus();
}

absl::Status CheckPart(const std::vector<TensorBytes>& tensors, size_t index, const char* name,
                       at::IntArrayRef shape, DType type) {
  if (index >= tensors.size() || tensors[index].name != name) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " is missing"));
  }
  return CheckTensor(tensors[index], shape, type);
}

}  // namespace

RowState ExportRow(const Sequence& sequence, const KvPool& kv, const AdapterPool& adapters) {
  const Window& window = sequence.window;
  RowState state{.tokens = window.tokens,
                 .window_start = window.start,
                 .kv_length = window.kv_length,
                 .lower_length = window.lower_length,
                 .adapter_version = sequence.version,
                 .optimizer_steps = sequence.optimizer_steps,
                 .tensors = {}};
  const int64_t row = sequence.handle.row;
  const int64_t positions = std::max(window.kv_length, window.lower_length);
  for (const Part& part : WindowParts(row, positions, kv)) {
    state.tensors.push_back(ToBytes(part.name, part.place));
  }
  const AdapterSpec& spec = sequence.options.adapter;
  if (!spec.enabled()) return state;
  const std::vector<Span> spans = adapters.layout().ActiveSpans(spec);
  for (const Part& part : AdapterParts(adapters.State(row))) {
    state.tensors.push_back(ToBytes(part.name, Gather(spans, part.place)));
  }
  return state;
}

RowState ExportAdapter(const Sequence& sequence, const AdapterPool& adapters) {
  RowState state;
  state.adapter_version = sequence.version;
  state.optimizer_steps = sequence.optimizer_steps;
  const SlotLayout& layout = adapters.layout();
  const AdapterView master{&layout, sequence.options.adapter,
                           adapters.State(sequence.handle.row).master};
  for (int32_t layer = 0; layer < layout.layers(); ++layer) {
    for (const Module module : kAllModules) {
      if (!master.Adapts(layer, module)) continue;
      state.tensors.push_back(ToBytes(PeftName(layer, module, "lora_A"), master.A(layer, module)));
      state.tensors.push_back(
          ToBytes(PeftName(layer, module, "lora_B"), master.B(layer, module).t()));
    }
  }
  return state;
}

absl::Status RestoreRow(const RowState& state, Sequence* sequence, KvPool* kv,
                        AdapterPool* adapters) {
  MAYFLY_RETURN_IF_ERROR(CheckLengths(state, *sequence, *kv));
  const int64_t row = sequence->handle.row;
  const AdapterSpec& spec = sequence->options.adapter;
  const std::vector<Span> spans = adapters->layout().ActiveSpans(spec);
  const int64_t positions = std::max(state.kv_length, state.lower_length);
  const std::vector<Part> window = WindowParts(row, positions, *kv);
  const std::vector<Part> adapter =
      spec.enabled() ? AdapterParts(adapters->State(row)) : std::vector<Part>();
  const int64_t elements = adapters->layout().ActiveElements(spec);
  size_t index = 0;
  for (const Part& part : window) {
    MAYFLY_RETURN_IF_ERROR(
        CheckPart(state.tensors, index++, part.name, part.place.sizes(), TypeOf(part.place)));
  }
  for (const Part& part : adapter) {
    MAYFLY_RETURN_IF_ERROR(
        CheckPart(state.tensors, index++, part.name, {elements}, DType::kFloat32));
  }

  index = 0;
  for (const Part& part : window) part.place.copy_(FromBytes(state.tensors[index++]));
  for (const Part& part : adapter) Scatter(spans, FromBytes(state.tensors[index++]), part.place);
  if (spec.enabled()) adapters->Publish(row, spec);
  sequence->window.tokens = state.tokens;
  sequence->window.start = state.window_start;
  sequence->window.kv_length = state.kv_length;
  sequence->window.lower_length = state.lower_length;
  sequence->window.kv_written = positions;
  sequence->version = state.adapter_version;
  sequence->optimizer_steps = state.optimizer_steps;
  return absl::OkStatus();
}

}  // namespace mayfly
