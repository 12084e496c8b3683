#pragma once

// Stored reference values of the text tests; tests run in the root of the repository.

#include <memory>
#include <string>

#include "engine/text/tokenizer.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace mayfly {

// A file of tests/engine/text/goldens.
nlohmann::json ReadGolden(const std::string& name);

// One of the tiny tokenizers in goldens/tokenizers, or the default model's ("smollm2"), which is
// null where the model was not set up.
std::unique_ptr<Tokenizer> GoldenTokenizer(const std::string& name);

}  // namespace mayfly
