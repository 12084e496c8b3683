#pragma once

// Turns the tokens of one generation into text as they come. The texts of all calls together are
// what Tokenizer::Decode gives for all the tokens, and each of them is valid UTF-8. Owned by a
// generation; one thread.

#include <span>
#include <string>
#include <vector>

#include "engine/base/utf8.h"
#include "engine/text/tokenizer.h"
#include "engine/types.h"

namespace mayfly {

class IncrementalDecoder {
 public:
  // `tokenizer` must outlive the decoder. `context`: the newest tokens before the generation, whose
  // text is not returned, but for a character that they begin and the generation completes; with
  // it, a sentencepiece-like tokenizer keeps the space before a first word.
  explicit IncrementalDecoder(const Tokenizer* tokenizer, bool skip_special = true,
                              std::span<const TokenId> context = {});

  // Returns the text that `token` completes; empty while a character is unfinished.
  std::string Push(TokenId token);

  // The text ends here: returns what was held back, an unfinished character as U+FFFD. One that is
  // cut off and may go on is not flushed: whoever goes on has its tokens as context.
  std::string Flush();

 private:
  std::string PushInWindow(TokenId token);
  // Text of window_ beyond that of its first `returned_` tokens.
  std::string NewText() const;
  // The tokens not yet returned become the first part of the window.
  void Advance();

  const Tokenizer* const tokenizer_;
  const bool skip_special_;

  // Byte-level tokenizers: bytes of an unfinished character.
  Utf8Assembler assembler_;

  // Other tokenizers: what a token looks like depends on the one before it. The window holds the
  // tokens last returned, for the context of the next, then those held back.
  std::vector<TokenId> window_;
  size_t returned_ = 0;
};

}  // namespace mayfly
