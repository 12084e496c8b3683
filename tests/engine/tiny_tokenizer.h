#pragma once

// A tokenizer for the tiny models of tests/parity/data, whose 96 tokens are the printable ASCII
// characters and the newline: what a test generates it can read.

#include <memory>
#include <string>
#include <vector>

#include "engine/text/tokenizer.h"
#include "nlohmann/json.hpp"

namespace mayfly {

inline constexpr int32_t kTinyVocabulary = 96;

// A byte-level tokenizer.json without merges, of `vocabulary` tokens: ' ' is 0, '!' is 1, ..., the
// newline is 95, and anything beyond is a name of its own.
inline std::string TinyTokenizerJson(int32_t vocabulary = kTinyVocabulary) {
  nlohmann::json vocab;
  for (int32_t id = 0; id < vocabulary; ++id) {
    // The space and the newline have stand-ins in GPT-2's byte alphabet.
    std::string name = id == 0 ? "\u0120" : id == 95 ? "\u010a" : std::string(1, char(' ' + id));
    if (id >= kTinyVocabulary) name = "extra" + std::to_string(id);
    vocab[name] = id;
  }
  const nlohmann::json byte_level = {{"type", "ByteLevel"},
                                     {"add_prefix_space", false},
                                     {"trim_offsets", true},
                                     {"use_regex", false}};
  return nlohmann::json(
             {{"version", "1.0"},
              {"added_tokens", nlohmann::json::array()},
              {"pre_tokenizer", byte_level},
              {"decoder", byte_level},
              {"model", {{"type", "BPE"}, {"vocab", vocab}, {"merges", nlohmann::json::array()}}}})
      .dump();
}

inline std::unique_ptr<Tokenizer> TinyTokenizer() {
  return Tokenizer::FromJson(TinyTokenizerJson()).value();
}

// The tokens of ASCII text.
inline std::vector<TokenId> TinyTokens(const std::string& text) {
  std::vector<TokenId> tokens;
  for (const char c : text) tokens.push_back(c == '\n' ? 95 : c - ' ');
  return tokens;
}

}  // namespace mayfly
