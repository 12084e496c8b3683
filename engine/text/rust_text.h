#pragma once

// The C ABI of the crate in engine/text/rust, and the little that makes it safe to use from C++.
// Only tokenizer.cc and chat_template.cc include it. Objects behind the pointers are immutable: any
// thread may use them.

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace mayfly {

struct RustTokenizer;
struct RustChatTemplate;

extern "C" {

// Bytes owned by the crate until mayfly_buffer_free.
struct MayflyBuffer {
  uint8_t* data;
  size_t size;
};
void mayfly_buffer_free(MayflyBuffer buffer);

// Null on failure, with the message in `error`.
RustTokenizer* mayfly_tokenizer_new(const uint8_t* json, size_t size, MayflyBuffer* error);
void mayfly_tokenizer_free(RustTokenizer* tokenizer);
// `out` gets the ids as uint32_t, or the message of the failure when the answer is false.
bool mayfly_tokenizer_encode(const RustTokenizer* tokenizer, const uint8_t* text, size_t size,
                             bool add_special_tokens, MayflyBuffer* out);
bool mayfly_tokenizer_decode(const RustTokenizer* tokenizer, const uint32_t* ids, size_t count,
                             bool skip_special, MayflyBuffer* out);
size_t mayfly_tokenizer_vocabulary_size(const RustTokenizer* tokenizer);
const uint8_t* mayfly_tokenizer_token_bytes(const RustTokenizer* tokenizer, uint32_t id,
                                            size_t* size);
bool mayfly_tokenizer_is_special(const RustTokenizer* tokenizer, uint32_t id);
bool mayfly_tokenizer_joins_bytes(const RustTokenizer* tokenizer);
// -1: no such token.
int64_t mayfly_tokenizer_token_to_id(const RustTokenizer* tokenizer, const uint8_t* token,
                                     size_t size);

// Null on failure, with the message in `error`.
RustChatTemplate* mayfly_chat_template_new(const uint8_t* source, size_t size, MayflyBuffer* error);
void mayfly_chat_template_free(RustChatTemplate* chat_template);
// `context` is a JSON object. `out` gets the text, or the message of the failure.
bool mayfly_chat_template_render(const RustChatTemplate* chat_template, const uint8_t* context,
                                 size_t size, MayflyBuffer* out);

}  // extern "C"

// Owns a buffer of the crate.
class RustBuffer {
 public:
  RustBuffer() = default;
  ~RustBuffer() { mayfly_buffer_free(buffer_); }
  RustBuffer(const RustBuffer&) = delete;
  RustBuffer& operator=(const RustBuffer&) = delete;

  MayflyBuffer* out() { return &buffer_; }
  std::string_view bytes() const {
    return {reinterpret_cast<const char*>(buffer_.data), buffer_.size};
  }
  std::string ToString() const { return std::string(bytes()); }

 private:
  MayflyBuffer buffer_{nullptr, 0};
};

inline const uint8_t* RustBytes(std::string_view text) {
  return reinterpret_cast<const uint8_t*>(text.data());
}

}  // namespace mayfly
