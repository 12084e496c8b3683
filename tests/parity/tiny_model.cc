#include "tests/parity/tiny_model.h"

#include <fstream>

#include "engine/base/log.h"
#include "engine/model/supported_models.h"

namespace mayfly {

TinyModel LoadTinyModel(const std::string& dir, DType dtype, int32_t window_tokens,
                        int32_t max_rank, int32_t rows, bool keep_lower_layers) {
  return LoadTinyModel(dir, NumericsFor(at::kCPU, dtype), window_tokens, max_rank, rows,
                       keep_lower_layers);
}

TinyModel LoadTinyModel(const std::string& dir, const Numerics& numerics, int32_t window_tokens,
                        int32_t max_rank, int32_t rows, bool keep_lower_layers) {
  TinyModel tiny;
  const ModelConfig config = LoadModelConfig(dir).value();
  tiny.numerics = numerics;
  tiny.layout = std::make_unique<SlotLayout>(
      config, max_rank, window_tokens, static_cast<int>(at::elementSize(tiny.numerics.weights)),
      keep_lower_layers);
  tiny.model = LoadModel(dir, config, tiny.numerics, *tiny.layout, window_tokens).value();
  tiny.kv = std::make_unique<KvPool>(config, tiny.numerics, rows, window_tokens, keep_lower_layers);
  tiny.adapters = std::make_unique<AdapterPool>(*tiny.layout, tiny.numerics, rows);
  return tiny;
}

Checkpoint ReadTensors(const std::string& path) { return Checkpoint::OpenFile(path).value(); }

nlohmann::json ReadJson(const std::string& path) {
  std::ifstream file(path);
  return nlohmann::json::parse(file);
}

double RelativeError(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor reference = expected.to(at::kDouble);
  const double scale = std::max(reference.abs().max().item<double>(), 1e-12);
  return (actual.to(at::kDouble) - reference).abs().max().item<double>() / scale;
}

void SetMasters(const Checkpoint& tensors, const std::string& prefix, const AdapterView& masters) {
  ForEachMatrix(masters, [&](const std::string& name, at::Tensor matrix) {
    if (const at::Tensor stored = tensors.Find(prefix + name); stored.defined()) {
      matrix.copy_(stored);
    }
  });
}

}  // namespace mayfly
