#include "engine/model/layers/lora_linear.h"

#include <utility>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Parallel.h>

#include "engine/device/adapter_rows.h"
#include "engine/model/layers/cpu_ops.h"

namespace mayfly {

at::Tensor LoraDropout::Apply(const at::Tensor& x, int32_t layer, Module module) const {
  if (!active()) return x;
  const uint64_t stream = static_cast<uint64_t>(layer) * kModules + static_cast<uint64_t>(module);
  at::Generator generator = at::detail::createCPUGenerator(seed_ ^ (stream * 0x9e3779b97f4a7c15));
  const at::Tensor keep = at::empty(x.sizes(), at::TensorOptions().dtype(at::kFloat))
                              .bernoulli_(1 - probability_, generator);
  return x.mul(keep.mul_(1 / (1 - probability_)).to(x.options()));
}

LoraLinear::LoraLinear(const Numerics& numerics, int32_t layer, Linear base,
                       std::vector<Module> modules, const SlotLayout& layout)
    : numerics_(numerics), layer_(layer), base_(std::move(base)) {
  int64_t begin = 0;
  for (const Module module : modules) {
    const int64_t width = layout.shape(module).out;
    outputs_.push_back({module, begin, width});
    const AdapterPair& pair = layout.pair(layer, module);
    places_.push_back({pair.a.offset, pair.b.offset, begin, width});
    begin += width;
  }
}

std::vector<Module> LoraLinear::modules() const {
  std::vector<Module> modules;
  for (const Output& output : outputs_) modules.push_back(output.module);
  return modules;
}

at::Tensor LoraLinear::Forward(const at::Tensor& x,
                               const std::vector<AdapterSegment>& segments) const {
  at::Tensor y = base_.Forward(x);
  std::vector<const AdapterSegment*> few_rows;
  const AdapterRows* rows = nullptr;
  for (const AdapterSegment& segment : segments) {
    if (segment.rows != nullptr) rows = segment.rows;
    if (segment.adapter == nullptr) continue;
    if (numerics_.kernels != nullptr && segment.tokens <= kFewRows && !segment.dropout.active()) {
      few_rows.push_back(&segment);
    } else {
      AddAdapter(x, segment, y);
    }
  }
  if (rows != nullptr) AddAdapterRows(numerics_.ops, x, *rows, places_, y);
  const int64_t modules = static_cast<int64_t>(outputs_.size());
  at::parallel_for(0, static_cast<int64_t>(few_rows.size()) * modules, 1,
                   [&](int64_t begin, int64_t end) {
                     for (int64_t task = begin; task < end; ++task) {
                       AddAdapterFewRows(x, *few_rows[static_cast<size_t>(task / modules)],
                                         outputs_[static_cast<size_t>(task % modules)], y);
                     }
                   });
  return y;
}

void LoraLinear::AddAdapter(const at::Tensor& x, const AdapterSegment& segment,
                            at::Tensor& y) const {
  const AdapterView& adapter = *segment.adapter;
  const at::Tensor input = x.narrow(0, segment.begin, segment.tokens);
  for (const Output& output : outputs_) {
    if (!adapter.Adapts(layer_, output.module)) continue;
    const at::Tensor a =
        MatrixProduct(numerics_, segment.dropout.Apply(input, layer_, output.module),
                      adapter.A(layer_, output.module).t());
    y.narrow(0, segment.begin, segment.tokens)
        .narrow(1, output.begin, output.width)
        .add_(MatrixProduct(numerics_, a, adapter.B(layer_, output.module)), adapter.spec.scale());
  }
}

void LoraLinear::AddAdapterFewRows(const at::Tensor& x, const AdapterSegment& segment,
                                   const Output& output, const at::Tensor& y) const {
  const AdapterView& adapter = *segment.adapter;
  if (!adapter.Adapts(layer_, output.module)) return;
  // Without views: making one takes as long as a small product.
  const AdapterPair& pair = adapter.layout->pair(layer_, output.module);
  const int64_t rank = adapter.spec.rank, in = x.size(1), y_width = y.size(1);
  std::vector<float> a(static_cast<size_t>(segment.tokens * rank));
  numerics_.kernels->linear(CpuArray(x, segment.begin * in), segment.tokens, in,
                            CpuArray(adapter.elements, pair.a.offset), nullptr, 0, rank, {a.data()},
                            rank);
  const cpu::Array b = CpuArray(adapter.elements, pair.b.offset);
  for (int64_t token = 0; token < segment.tokens; ++token) {
    numerics_.kernels->expand(a.data() + token * rank, rank, b, output.width,
                              static_cast<float>(adapter.spec.scale()), 0, output.width,
                              CpuArray(y, (segment.begin + token) * y_width + output.begin));
  }
}

at::Tensor LoraLinear::Backward(const at::Tensor& x, const at::Tensor& dy,
                                const std::vector<AdapterSegment>& segments, bool need_dx) const {
  const at::Tensor dx = need_dx ? base_.BackwardInput(dy) : at::Tensor();
  for (const AdapterSegment& segment : segments) {
    if (segment.adapter != nullptr) BackwardAdapter(x, dy, segment, dx);
  }
  return dx;
}

void LoraLinear::BackwardAdapter(const at::Tensor& x, const at::Tensor& dy,
                                 const AdapterSegment& segment, const at::Tensor& dx) const {
  const AdapterView& adapter = *segment.adapter;
  const double scale = adapter.spec.scale();
  const at::Tensor all_input = x.narrow(0, segment.begin, segment.tokens);
  const at::Tensor all_dy = dy.narrow(0, segment.begin, segment.tokens);
  for (const Output& output : outputs_) {
    const Module module = output.module;
    if (!adapter.Adapts(layer_, module)) continue;
    const at::Tensor input = segment.dropout.Apply(all_input, layer_, module);
    const at::Tensor weight_a = adapter.A(layer_, module);
    const at::Tensor dy_module = all_dy.narrow(1, output.begin, output.width);
    const at::Tensor da =
        MatrixProduct(numerics_, dy_module, adapter.B(layer_, module).t()).mul_(scale);
    if (segment.gradients != nullptr) {
      const at::Tensor a = MatrixProduct(numerics_, input, weight_a.t());
      segment.gradients->A(layer_, module).add_(MatrixProduct(numerics_, da.t(), input));
      segment.gradients->B(layer_, module).add_(MatrixProduct(numerics_, a.t(), dy_module), scale);
    }
    if (!dx.defined()) continue;
    dx.narrow(0, segment.begin, segment.tokens)
        .add_(segment.dropout.Apply(MatrixProduct(numerics_, da, weight_a), layer_, module));
  }
}

}  // namespace mayfly
