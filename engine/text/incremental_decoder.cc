#include "engine/text/incremental_decoder.h"

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace mayfly {
namespace {

// No character is made of more tokens than it has bytes.
constexpr size_t kContextTokens = 4;

bool ContinuesCharacter(std::string_view bytes) {
  return !bytes.empty() && IsUtf8Continuation(bytes.front());
}

}  // namespace

IncrementalDecoder::IncrementalDecoder(const Tokenizer* tokenizer, bool skip_special,
                                       std::span<const TokenId> context)
    : tokenizer_(tokenizer), skip_special_(skip_special) {
  const std::span<const TokenId> newest = context.last(std::min(context.size(), kContextTokens));
  if (tokenizer_->joins_bytes()) {
    for (const TokenId token : newest) Push(token);
    return;
  }
  // Bytes whose character began before are judged wrongly without its beginning.
  const auto begin = std::find_if_not(newest.begin(), newest.end(), [&](TokenId token) {
    return ContinuesCharacter(tokenizer_->TokenBytes(token));
  });
  window_.assign(begin, newest.end());
  // A character that the context begins has not been returned.
  std::string bytes;
  for (const TokenId token : window_) bytes += tokenizer_->TokenBytes(token);
  const size_t whole = bytes.size() - IncompleteUtf8Suffix(bytes);
  for (size_t length = 0; returned_ < window_.size(); ++returned_) {
    length += tokenizer_->TokenBytes(window_[returned_]).size();
    if (length > whole) break;
  }
}

std::string IncrementalDecoder::Push(TokenId token) {
  if (skip_special_ && tokenizer_->IsSpecial(token)) return {};
  if (tokenizer_->joins_bytes()) return assembler_.Push(tokenizer_->TokenBytes(token));
  return PushInWindow(token);
}

std::string IncrementalDecoder::PushInWindow(TokenId token) {
  window_.push_back(token);
  std::string held_back;
  for (size_t i = returned_; i < window_.size(); ++i) {
    held_back += tokenizer_->TokenBytes(window_[i]);
  }
  if (IncompleteUtf8Suffix(held_back) > 0) return {};
  std::string text = NewText();
  // Without text (a space that is dropped at the start), the window keeps its first token.
  if (!text.empty()) Advance();
  return text;
}

std::string IncrementalDecoder::Flush() {
  if (tokenizer_->joins_bytes()) return assembler_.Flush();
  std::string text = NewText();
  Advance();
  return text;
}

std::string IncrementalDecoder::NewText() const {
  const std::span<const TokenId> window(window_);
  const std::string before = tokenizer_->Decode(window.first(returned_), skip_special_);
  std::string all = tokenizer_->Decode(window, skip_special_);
  if (all.starts_with(before)) return all.substr(before.size());
  // A run of byte tokens is judged as a whole, so an invalid byte turns the characters before it
  // into U+FFFD too. Those are out already; only the new tokens' text is left to say.
  return tokenizer_->Decode(window.subspan(returned_), skip_special_);
}

void IncrementalDecoder::Advance() {
  window_.erase(window_.begin(), window_.begin() + static_cast<std::ptrdiff_t>(returned_));
  returned_ = window_.size();
}

}  // namespace mayfly
