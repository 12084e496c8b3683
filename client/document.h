#pragma once

// Text as the commands read it: whole, valid, and cut into pieces where no tokenizer minds.

#include <cstddef>
#include <istream>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace mayfly::cli {

// All of the file at `path`.
absl::StatusOr<std::string> ReadBytes(const std::string& path);
// The file at `path`, or all of `standard_input` if the path is "-". Refuses what is not UTF-8.
absl::StatusOr<std::string> ReadDocument(const std::string& path, std::istream& standard_input);

// OK, or an error that names `source` and the first byte that is not UTF-8.
absl::Status CheckUtf8(absl::string_view text, absl::string_view source);

// The offset of the first byte that is not part of a well-formed UTF-8 sequence (RFC 3629).
std::optional<size_t> FirstInvalidUtf8(absl::string_view text);

// The longest beginning of `text` that has at most `max_bytes` and ends just before white space (a
// line break if one is near the end), at worst between two characters. Never empty unless `text`
// is.
//
// Byte-level BPE vocabularies never merge across the boundary from a word to the white space after
// it, so the tokens of the pieces are those of the whole; with other tokenizers they differ by at
// most one or two tokens a piece.
absl::string_view FirstPiece(absl::string_view text, size_t max_bytes);

}  // namespace mayfly::cli
