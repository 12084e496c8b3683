#include "engine/train/activation_init.h"

#include <algorithm>
#include <tuple>

#include <ATen/CPUGeneratorImpl.h>

namespace mayfly {
namespace {

// More directions than are asked for, and how often the spectrum is sharpened (Halko et al. find 5
// to 10 and one or two enough).
constexpr int64_t kOversampling = 8;
constexpr int kIterations = 2;

// An orthonormal basis of the columns.
at::Tensor Orthonormal(const at::Tensor& columns) {
  return std::get<0>(at::linalg_qr(columns, "reduced"));
}

}  // namespace

at::Tensor TopDirections(const at::Tensor& x, int64_t rank, uint64_t seed) {
  const at::Tensor rows = x.to(at::kFloat);
  const int64_t in = rows.size(1), width = std::min(in, rank + kOversampling);
  at::Generator generator = at::detail::createCPUGenerator(seed);
  at::Tensor basis =
      at::randn({in, width}, generator, at::TensorOptions().dtype(at::kFloat)).to(rows.device());
  for (int i = 0; i <= kIterations; ++i) basis = Orthonormal(rows.t().mm(rows.mm(basis)));
  // Within the basis the eigenvectors of a small matrix, by ascending eigenvalues.
  const at::Tensor image = rows.mm(basis);
  const at::Tensor vectors = std::get<1>(at::linalg_eigh(image.t().mm(image), "L"));
  return basis.mm(vectors.flip({1}).narrow(1, 0, rank)).t().contiguous();
}

bool IsFresh(const AdapterView& adapter) {
  for (int32_t layer = adapter.spec.first_layer; layer < adapter.layout->layers(); ++layer) {
    for (const Module module : kAllModules) {
      if (adapter.Adapts(layer, module) && adapter.B(layer, module).any().item<bool>()) {
        return false;
      }
    }
  }
  return true;
}

void SetFromActivations(const CausalLm& model, const TrainingTrace& trace, size_t segment,
                        const AdapterView& adapter) {
  const AdapterSegment& place = trace.context.segments[segment];
  for (int32_t layer = adapter.spec.first_layer; layer < model.config().layers; ++layer) {
    model.VisitInputs(
        trace, layer, [&](const std::vector<Module>& modules, const at::Tensor& input) {
          const auto adapts = [&](Module module) { return adapter.Adapts(layer, module); };
          if (std::none_of(modules.begin(), modules.end(), adapts)) return;
          const uint64_t seed = adapter.spec.seed * kModules + static_cast<uint64_t>(modules[0]);
          const at::Tensor a =
              TopDirections(input.narrow(0, place.begin, place.tokens), adapter.spec.rank, seed);
          for (const Module module : modules) {
            if (adapts(module)) adapter.A(layer, module).copy_(a);
          }
        });
  }
}

}  // namespace mayfly
