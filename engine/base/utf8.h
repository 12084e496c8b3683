#pragma once

// UTF-8 that arrives in pieces which need not be whole characters.

#include <cstddef>
#include <string>
#include <string_view>

namespace mayfly {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

bool IsValidUtf8(std::string_view text);

// Whether a character that began before goes on with this byte.
constexpr bool IsUtf8Continuation(char byte) {
  return (static_cast<unsigned char>(byte) & 0xC0) == 0x80;
}

// Length of the unfinished but so far valid character at the end of `bytes`; 0 to 3.
size_t IncompleteUtf8Suffix(std::string_view bytes);

// Joins bytes to text. What can be no character becomes U+FFFD, one for each maximal part of a
// character, which is what Rust, Python and the web do (Unicode 15, section 3.9, table 3-8). The
// pieces together are what one call on all the bytes would give. One thread.
class Utf8Assembler {
 public:
  // Returns the characters that `bytes` completes.
  std::string Push(std::string_view bytes);

  // The input ends here: an unfinished character becomes U+FFFD.
  std::string Flush();

 private:
  std::string unfinished_;
};

}  // namespace mayfly
