#include "engine/text/tokenizer.h"

#include <cstring>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/text/read_file.h"
#include "engine/text/rust_text.h"

namespace mayfly {

// Token ids cross the C boundary as uint32_t; a negative one is beyond every vocabulary.
static_assert(sizeof(TokenId) == sizeof(uint32_t));

void Tokenizer::Free::operator()(RustTokenizer* tokenizer) const {
  mayfly_tokenizer_free(tokenizer);
}

Tokenizer::Tokenizer(Handle handle)
    : handle_(std::move(handle)),
      vocabulary_size_(static_cast<int32_t>(mayfly_tokenizer_vocabulary_size(handle_.get()))),
      joins_bytes_(mayfly_tokenizer_joins_bytes(handle_.get())) {}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::Load(const std::string& model_dir) {
  const std::string path = model_dir + "/tokenizer.json";
  MAYFLY_ASSIGN_OR_RETURN(const std::string json, ReadFile(path));
  absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = FromJson(json);
  if (!tokenizer.ok()) {
    return absl::Status(tokenizer.status().code(),
                        absl::StrCat(path, ": ", tokenizer.status().message()));
  }
  return tokenizer;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> Tokenizer::FromJson(std::string_view json) {
  RustBuffer error;
  Handle handle(mayfly_tokenizer_new(RustBytes(json), json.size(), error.out()));
  if (handle == nullptr) return absl::InvalidArgumentError(error.ToString());
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(handle)));
}

absl::StatusOr<std::vector<TokenId>> Tokenizer::Encode(std::string_view text,
                                                       bool add_special_tokens) const {
  RustBuffer out;
  if (!mayfly_tokenizer_encode(handle_.get(), RustBytes(text), text.size(), add_special_tokens,
                               out.out())) {
    return absl::InvalidArgumentError(out.ToString());
  }
  std::vector<TokenId> tokens(out.bytes().size() / sizeof(TokenId));
  if (!tokens.empty()) std::memcpy(tokens.data(), out.bytes().data(), out.bytes().size());
  return tokens;
}

std::string Tokenizer::Decode(std::span<const TokenId> tokens, bool skip_special) const {
  RustBuffer out;
  const bool decoded =
      mayfly_tokenizer_decode(handle_.get(), reinterpret_cast<const uint32_t*>(tokens.data()),
                              tokens.size(), skip_special, out.out());
  // No decoder in use fails on tokens of its own vocabulary; one that did would have no text to
  // give.
  return decoded ? out.ToString() : std::string();
}

std::string_view Tokenizer::TokenBytes(TokenId token) const {
  size_t size = 0;
  const uint8_t* bytes =
      mayfly_tokenizer_token_bytes(handle_.get(), static_cast<uint32_t>(token), &size);
  return {reinterpret_cast<const char*>(bytes), size};
}

bool Tokenizer::IsSpecial(TokenId token) const {
  return mayfly_tokenizer_is_special(handle_.get(), static_cast<uint32_t>(token));
}

std::optional<TokenId> Tokenizer::TokenToId(std::string_view content) const {
  const int64_t id =
      mayfly_tokenizer_token_to_id(handle_.get(), RustBytes(content), content.size());
  if (id < 0) return std::nullopt;
  return static_cast<TokenId>(id);
}

}  // namespace mayfly
