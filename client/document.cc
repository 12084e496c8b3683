#include "client/document.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/base/utf8.h"

namespace mayfly::cli {
namespace {

std::string ReadAll(std::istream& in) {
  return std::string(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
}

bool StartsSpace(absl::string_view text, size_t i) {
  return absl::ascii_isspace(text[i]) && !absl::ascii_isspace(text[i - 1]);
}

// Length of the well-formed sequence at the start of `text`; 0 if there is none.
size_t SequenceLength(absl::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t lead = byte(0);
  if (lead < 0x80) return 1;
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() < length) return 0;
  for (size_t i = 1; i < length; ++i) {
    if (!IsUtf8Continuation(text[i])) return 0;
  }
  // Overlong forms, surrogates, and what lies above U+10FFFF.
  if (lead == 0xE0 && byte(1) < 0xA0) return 0;
  if (lead == 0xED && byte(1) > 0x9F) return 0;
  if (lead == 0xF0 && byte(1) < 0x90) return 0;
  if (lead == 0xF4 && byte(1) > 0x8F) return 0;
  return length;
}

}  // namespace

absl::StatusOr<std::string> ReadBytes(const std::string& path) {
  if (std::filesystem::is_directory(path)) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read ", path, ": it is a directory"));
  }
  std::ifstream file(path, std::ios::binary);
  if (!file) {
    return absl::NotFoundError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  }
  return ReadAll(file);
}

absl::StatusOr<std::string> ReadDocument(const std::string& path, std::istream& standard_input) {
  const bool is_input = path == "-";
  absl::StatusOr<std::string> text = is_input ? ReadAll(standard_input) : ReadBytes(path);
  MAYFLY_RETURN_IF_ERROR(text.status());
  const std::string source = is_input ? "standard input" : path;
  if (text->empty()) return absl::InvalidArgumentError(absl::StrCat(source, " is empty"));
  MAYFLY_RETURN_IF_ERROR(CheckUtf8(*text, source));
  return text;
}

absl::Status CheckUtf8(absl::string_view text, absl::string_view source) {
  const std::optional<size_t> invalid = FirstInvalidUtf8(text);
  if (!invalid) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(source, " is not UTF-8 text: byte ", *invalid, " does not fit"));
}

std::optional<size_t> FirstInvalidUtf8(absl::string_view text) {
  for (size_t i = 0; i < text.size();) {
    const size_t length = SequenceLength(text.substr(i));
    if (length == 0) return i;
    i += length;
  }
  return std::nullopt;
}

absl::string_view FirstPiece(absl::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return text;
  // A line break in the last half is worth a shorter piece.
  for (size_t i = max_bytes; i > max_bytes / 2; --i) {
    if (text[i] == '\n' && StartsSpace(text, i)) return text.substr(0, i);
  }
  for (size_t i = max_bytes; i > 0; --i) {
    if (StartsSpace(text, i)) return text.substr(0, i);
  }
  size_t end = max_bytes;
  while (end > 0 && IsUtf8Continuation(text[end])) --end;
  if (end > 0) return text.substr(0, end);
  return text.substr(0, SequenceLength(text));
}

}  // namespace mayfly::cli
