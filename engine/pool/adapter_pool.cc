#include "engine/pool/adapter_pool.h"

#include <algorithm>
#include <cmath>

#include <ATen/CPUGeneratorImpl.h>

namespace mayfly {

void CopySpans(const std::vector<Span>& spans, const at::Tensor& from, const at::Tensor& to) {
  for (const Span& span : spans) {
    to.narrow(0, span.offset, span.count).copy_(from.narrow(0, span.offset, span.count));
  }
}

void ZeroSpans(const std::vector<Span>& spans, const at::Tensor& row) {
  for (const Span& span : spans) row.narrow(0, span.offset, span.count).zero_();
}

AdapterPool::AdapterPool(const SlotLayout& layout, const Numerics& numerics, int32_t rows)
    : layout_(layout),
      active_(static_cast<size_t>(rows), 0),
      serving_(at::zeros({2, rows, layout.adapter_elements()}, numerics.WeightOptions())),
      master_(
          at::zeros({rows, layout.adapter_elements()}, numerics.WeightOptions().dtype(at::kFloat))),
      moment1_(at::zeros_like(master_)),
      moment2_(at::zeros_like(master_)),
      checkpoint_(at::zeros_like(master_)) {}

void AdapterPool::Initialize(int64_t row, const AdapterSpec& spec) {
  const AdapterView master{&layout_, spec, master_[row]};
  at::Generator generator = at::detail::createCPUGenerator(spec.seed);
  int32_t widest = 0;
  for (const Module module : kAllModules) widest = std::max(widest, layout_.shape(module).in);
  // The one allocation, before anything is changed: where it fails the row is as it was.
  const at::Tensor drawn =
      at::empty({int64_t{spec.rank} * widest}, at::TensorOptions().dtype(at::kFloat));
  for (int32_t layer = 0; layer < layout_.layers(); ++layer) {
    for (const Module module : kAllModules) {
      if (!master.Adapts(layer, module)) continue;
      const double bound = 1 / std::sqrt(layout_.shape(module).in);
      at::Tensor a = master.A(layer, module);
      a.copy_(drawn.narrow(0, 0, a.numel()).view(a.sizes()).uniform_(-bound, bound, generator));
      master.B(layer, module).zero_();
    }
  }
  const std::vector<Span> spans = layout_.ActiveSpans(spec);
  ZeroSpans(spans, moment1_[row]);
  ZeroSpans(spans, moment2_[row]);
  SaveCheckpoint(row, spec);
  Publish(row, spec);
}

AdapterState AdapterPool::State(int64_t row) const {
  return {Active(row), Shadow(row), master_[row], moment1_[row], moment2_[row], checkpoint_[row]};
}

AdapterView AdapterPool::Serving(int64_t row, const AdapterSpec& spec) const {
  return {&layout_, spec, Active(row)};
}

void AdapterPool::Publish(int64_t row, const AdapterSpec& spec) {
  CopySpans(layout_.ActiveSpans(spec), master_[row], Active(row));
}

void AdapterPool::SaveCheckpoint(int64_t row, const AdapterSpec& spec) {
  CopySpans(layout_.ActiveSpans(spec), master_[row], checkpoint_[row]);
}

void AdapterPool::RestoreCheckpoint(int64_t row, const AdapterSpec& spec) {
  const std::vector<Span> spans = layout_.ActiveSpans(spec);
  CopySpans(spans, checkpoint_[row], master_[row]);
  ZeroSpans(spans, moment1_[row]);
  ZeroSpans(spans, moment2_[row]);
  Publish(row, spec);
}

void AdapterPool::Zero(int64_t row, const AdapterSpec& spec) {
  const std::vector<Span> spans = layout_.ActiveSpans(spec);
  for (const at::Tensor& pool :
       {serving_[0], serving_[1], master_, moment1_, moment2_, checkpoint_}) {
    ZeroSpans(spans, pool[row]);
  }
}

bool AdapterPool::IsZero(int64_t row) const {
  for (const at::Tensor& pool :
       {serving_[0], serving_[1], master_, moment1_, moment2_, checkpoint_}) {
    if (pool[row].any().item<bool>()) return false;
  }
  return true;
}

}  // namespace mayfly
