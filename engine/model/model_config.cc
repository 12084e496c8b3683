#include "engine/model/model_config.h"

#include <cmath>
#include <fstream>
#include <optional>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace mayfly {
namespace {

using Json = nlohmann::json;

absl::Status Bad(const std::string& message) {
  return absl::InvalidArgumentError(absl::StrCat("config.json: ", message));
}

// Reads typed fields of one JSON object and remembers the first thing that is wrong.
class Reader {
 public:
  explicit Reader(const Json& object) : object_(object) {}

  template <typename T>
  T Get(const char* name, T fallback) {
    const auto it = object_.find(name);
    if (it == object_.end() || it->is_null()) return fallback;
    try {
      return it->template get<T>();
    } catch (const Json::exception&) {
      if (status_.ok()) status_ = Bad(absl::StrCat("'", name, "' has the wrong type"));
      return fallback;
    }
  }

  // A size that must be there and lie in [1, limit].
  int32_t Size(const char* name, int64_t limit) {
    return CheckSize(name, Get<int64_t>(name, 0), limit);
  }
  int32_t SizeOr(const char* name, int64_t fallback, int64_t limit) {
    return CheckSize(name, Get<int64_t>(name, fallback), limit);
  }
  // A finite number greater than `limit`.
  double Above(const char* name, double fallback, double limit) {
    const double value = Get(name, fallback);
    if (!(std::isfinite(value) && value > limit) && status_.ok()) {
      status_ = Bad(absl::StrCat("'", name, "' is ", value, ", it must be above ", limit));
    }
    return value;
  }

  const absl::Status& status() const { return status_; }

 private:
  int32_t CheckSize(const char* name, int64_t value, int64_t limit) {
    if ((value < 1 || value > limit) && status_.ok()) {
      status_ = Bad(absl::StrCat("'", name, "' is ", value, ", it must lie in 1..", limit));
    }
    return static_cast<int32_t>(value);
  }

  const Json& object_;
  absl::Status status_;
};

std::optional<RopeScaling> ScalingFromName(const std::string& name) {
  if (name == "default") return RopeScaling::kNone;
  if (name == "linear") return RopeScaling::kLinear;
  if (name == "dynamic") return RopeScaling::kDynamic;
  if (name == "llama3") return RopeScaling::kLlama3;
  if (name == "yarn") return RopeScaling::kYarn;
  return std::nullopt;
}

// The parameters stand under "rope_parameters" (transformers 5) or "rope_scaling" with "rope_theta"
// beside.
absl::StatusOr<RopeConfig> ParseRope(const Json& config, int32_t max_positions) {
  RopeConfig rope;
  Reader outer(config);
  rope.theta = outer.Above("rope_theta", rope.theta, 1);
  rope.original_max_positions = max_positions;
  MAYFLY_RETURN_IF_ERROR(outer.status());
  const char* const place = config.contains("rope_parameters") ? "rope_parameters" : "rope_scaling";
  const auto found = config.find(place);
  if (found == config.end() || found->is_null()) return rope;
  if (!found->is_object()) return Bad(absl::StrCat("'", place, "' is not an object"));

  Reader inner(*found);
  const std::string name =
      inner.Get<std::string>("rope_type", inner.Get<std::string>("type", "default"));
  const std::optional<RopeScaling> scaling = ScalingFromName(name);
  if (!scaling) return Bad(absl::StrCat("'", place, "' has the unknown type '", name, "'"));
  rope.scaling = *scaling;
  rope.theta = inner.Above("rope_theta", rope.theta, 1);
  rope.factor = inner.Get("factor", rope.factor);
  rope.original_max_positions =
      inner.SizeOr("original_max_position_embeddings", rope.original_max_positions, 1 << 24);
  rope.low_freq_factor = inner.Get("low_freq_factor", rope.low_freq_factor);
  rope.high_freq_factor = inner.Get("high_freq_factor", rope.high_freq_factor);
  rope.beta_fast = inner.Get("beta_fast", rope.beta_fast);
  rope.beta_slow = inner.Get("beta_slow", rope.beta_slow);
  rope.attention_factor = inner.Get("attention_factor", rope.attention_factor);
  rope.mscale = inner.Get("mscale", rope.mscale);
  rope.mscale_all_dim = inner.Get("mscale_all_dim", rope.mscale_all_dim);
  rope.truncate = inner.Get("truncate", rope.truncate);
  const double rotary_part = inner.Get("partial_rotary_factor", 1.0);
  MAYFLY_RETURN_IF_ERROR(inner.status());
  if (rotary_part != 1.0) {
    return Bad("'partial_rotary_factor' other than 1 is not supported");
  }
  if (!std::isfinite(rope.factor) || rope.factor < 1) {
    return Bad(absl::StrCat("'factor' is ", rope.factor, ", it must be at least 1"));
  }
  return rope;
}

absl::Status CheckNoSlidingWindow(const Json& config, int32_t max_positions) {
  const auto it = config.find("sliding_window");
  if (it == config.end() || !it->is_number_integer()) return absl::OkStatus();
  Reader reader(config);
  const bool used = reader.Get("use_sliding_window", true);
  MAYFLY_RETURN_IF_ERROR(reader.status());
  if (!used) return absl::OkStatus();
  if (it->get<int64_t>() >= max_positions) return absl::OkStatus();
  return Bad(absl::StrCat("'sliding_window' is ", it->get<int64_t>(),
                          ", sliding-window attention is not supported"));
}

std::vector<int32_t> TokenIds(const Json& object, const char* name) {
  const auto it = object.find(name);
  if (it == object.end()) return {};
  if (it->is_number_integer()) return {it->get<int32_t>()};
  std::vector<int32_t> ids;
  if (it->is_array()) {
    for (const Json& id : *it) {
      if (id.is_number_integer()) ids.push_back(id.get<int32_t>());
    }
  }
  return ids;
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// Biases are part of the architecture where the configuration does not say otherwise.
void SetArchitectureTraits(Reader& reader, ModelConfig* config) {
  const bool qwen2 = config->architecture == "Qwen2ForCausalLM";
  config->attention_bias = qwen2 || reader.Get("attention_bias", false);
  config->attention_o_bias = !qwen2 && reader.Get("attention_bias", false);
  config->mlp_bias = reader.Get("mlp_bias", false);
  config->qk_norm = config->architecture == "Qwen3ForCausalLM";
}

}  // namespace

absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& json) {
  const Json object = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return Bad("not a JSON object");
  const auto architectures = object.find("architectures");
  if (architectures == object.end() || !architectures->is_array() || architectures->empty() ||
      !architectures->front().is_string()) {
    return Bad("'architectures' names no model");
  }

  ModelConfig config;
  config.architecture = architectures->front().get<std::string>();
  Reader reader(object);
  config.vocabulary = reader.Size("vocab_size", 1 << 20);
  config.hidden = reader.Size("hidden_size", 1 << 16);
  config.intermediate = reader.Size("intermediate_size", 1 << 18);
  config.layers = reader.Size("num_hidden_layers", 1024);
  config.heads = reader.Size("num_attention_heads", 1024);
  config.kv_heads = reader.SizeOr("num_key_value_heads", config.heads, 1024);
  config.max_positions = reader.SizeOr("max_position_embeddings", 2048, 1 << 24);
  MAYFLY_RETURN_IF_ERROR(reader.status());
  config.head_dim = reader.SizeOr("head_dim", config.hidden / config.heads, 1024);
  config.rms_norm_eps = reader.Above("rms_norm_eps", config.rms_norm_eps, 0);
  config.tied_embeddings = reader.Get("tie_word_embeddings", false);
  SetArchitectureTraits(reader, &config);
  const std::string activation = reader.Get<std::string>("hidden_act", "silu");
  MAYFLY_RETURN_IF_ERROR(reader.status());

  if (activation != "silu") {
    return Bad(absl::StrCat("'hidden_act' is '", activation, "', only 'silu' is supported"));
  }
  if (config.heads % config.kv_heads != 0) {
    return Bad(absl::StrCat("'num_attention_heads' is ", config.heads,
                            ", it must be a multiple of 'num_key_value_heads', ", config.kv_heads));
  }
  if (config.head_dim % 2 != 0) {
    return Bad(absl::StrCat("'head_dim' is ", config.head_dim, ", it must be even"));
  }
  MAYFLY_RETURN_IF_ERROR(CheckNoSlidingWindow(object, config.max_positions));
  MAYFLY_ASSIGN_OR_RETURN(config.rope, ParseRope(object, config.max_positions));
  config.eos_token_ids = TokenIds(object, "eos_token_id");
  return config;
}

absl::StatusOr<ModelConfig> LoadModelConfig(const std::string& dir) {
  MAYFLY_ASSIGN_OR_RETURN(const std::string json, ReadFile(dir + "/config.json"));
  MAYFLY_ASSIGN_OR_RETURN(ModelConfig config, ParseModelConfig(json));
  if (const auto text = ReadFile(dir + "/generation_config.json"); text.ok()) {
    const Json object = Json::parse(*text, nullptr, /*allow_exceptions=*/false);
    if (const auto ids = TokenIds(object, "eos_token_id"); !ids.empty()) config.eos_token_ids = ids;
  }
  return config;
}

}  // namespace mayfly
