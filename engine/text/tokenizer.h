#pragma once

// The model's tokenizer, exactly as Hugging Face's `tokenizers` computes it from a tokenizer.json.
// Immutable after construction; any thread.

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "engine/types.h"

namespace mayfly {

struct RustTokenizer;

class Tokenizer {
 public:
  // Reads `model_dir`/tokenizer.json. NotFound without one, InvalidArgument if it cannot be
  // understood.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Load(const std::string& model_dir);
  static absl::StatusOr<std::unique_ptr<Tokenizer>> FromJson(std::string_view json);

  // InvalidArgument for text that is not UTF-8. Special tokens written out in the text become those
  // tokens; `add_special_tokens` adds what the tokenizer puts around a text (often a BOS).
  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text,
                                              bool add_special_tokens = false) const;

  // Always valid UTF-8: bytes that are none become U+FFFD. Ids without a token are left out.
  std::string Decode(std::span<const TokenId> tokens, bool skip_special) const;

  // The bytes that a token stands for, which need not be whole characters; empty for an id without
  // a token. Valid for the life of the tokenizer.
  std::string_view TokenBytes(TokenId token) const;

  // Whether Decode is nothing but the joined TokenBytes (GPT-2's byte-level scheme).
  // Sentencepiece-like tokenizers also drop a space at the start.
  bool joins_bytes() const { return joins_bytes_; }

  // One more than the greatest id. The model's embedding may have more rows.
  int32_t vocabulary_size() const { return vocabulary_size_; }

  // Special tokens steer the model and are no text: "<|im_end|>".
  bool IsSpecial(TokenId token) const;

  // The token with exactly this content.
  std::optional<TokenId> TokenToId(std::string_view content) const;

 private:
  struct Free {
    void operator()(RustTokenizer* tokenizer) const;
  };
  using Handle = std::unique_ptr<RustTokenizer, Free>;

  explicit Tokenizer(Handle handle);

  const Handle handle_;
  const int32_t vocabulary_size_;
  const bool joins_bytes_;
};

}  // namespace mayfly
