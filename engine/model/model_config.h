#pragma once

// The shape of a model, read from the config.json of a Hugging Face directory. Plain values.

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace mayfly {

enum class RopeScaling { kNone, kLinear, kDynamic, kLlama3, kYarn };

// Rotary position embedding (Su et al., arXiv 2104.09864) and its extensions, with the field names
// of the configuration file.
struct RopeConfig {
  double theta = 10000;
  RopeScaling scaling = RopeScaling::kNone;
  double factor = 1;
  int32_t original_max_positions = 0;
  // llama3
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  // yarn (Peng et al., arXiv 2309.00071)
  double beta_fast = 32;
  double beta_slow = 1;
  double attention_factor = 0;  // 0: derived from factor, mscale and mscale_all_dim
  double mscale = 0;
  double mscale_all_dim = 0;
  bool truncate = true;
};

struct ModelConfig {
  // "LlamaForCausalLM" and so on.
  std::string architecture;
  int32_t vocabulary = 0;
  int32_t hidden = 0;
  int32_t intermediate = 0;
  int32_t layers = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t max_positions = 0;
  double rms_norm_eps = 1e-6;
  bool tied_embeddings = false;
  bool attention_bias = false;    // on q, k, v
  bool attention_o_bias = false;  // on o
  bool mlp_bias = false;
  bool qk_norm = false;
  RopeConfig rope;
  std::vector<int32_t> eos_token_ids;
};

// Reads `dir`/config.json (and the end tokens of generation_config.json, where there is one).
// NOT_FOUND, or INVALID_ARGUMENT naming the field: unknown architecture, missing or impossible
// value, a feature that would change the result and is not supported (sliding windows in use).
absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& dir);

// The same from the text of a config.json.
absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& json);

}  // namespace mayfly
