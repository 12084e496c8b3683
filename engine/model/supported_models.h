#pragma once

// The models that can be loaded, as one list from architecture name to constructor.

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "engine/model/causal_lm.h"
#include "engine/pool/slot_layout.h"

namespace mayfly {

// Loads the model of a Hugging Face directory. INVALID_ARGUMENT names an unknown architecture and
// the known ones.
absl::StatusOr<std::unique_ptr<CausalLm>> LoadModel(const std::string& dir,
                                                    const ModelConfig& config,
                                                    const Numerics& numerics,
                                                    const SlotLayout& layout,
                                                    int32_t window_tokens);

}  // namespace mayfly
