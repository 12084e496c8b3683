#include "engine/base/utf8.h"

#include <algorithm>
#include <cstdint>
#include <utility>

namespace mayfly {
namespace {

enum class Form { kCharacter, kInvalid, kUnfinished };

struct Part {
  Form form;
  size_t size;
};

// The bytes that may follow a lead byte (Unicode 15, table 3-7): how many, and the range of the
// first.
struct Follow {
  size_t count;
  uint8_t low;
  uint8_t high;
};

Follow FollowOf(uint8_t lead) {
  if (lead >= 0xC2 && lead <= 0xDF) return {1, 0x80, 0xBF};
  if (lead == 0xE0) return {2, 0xA0, 0xBF};
  if (lead == 0xED) return {2, 0x80, 0x9F};  // no surrogates
  if (lead >= 0xE1 && lead <= 0xEF) return {2, 0x80, 0xBF};
  if (lead == 0xF0) return {3, 0x90, 0xBF};
  if (lead >= 0xF1 && lead <= 0xF3) return {3, 0x80, 0xBF};
  if (lead == 0xF4) return {3, 0x80, 0x8F};  // nothing above U+10FFFF
  return {0, 0, 0};
}

// The first character of `bytes`, which is not empty, or the maximal part of one.
Part FirstPart(std::string_view bytes) {
  const uint8_t lead = static_cast<uint8_t>(bytes[0]);
  if (lead < 0x80) return {Form::kCharacter, 1};
  const Follow follow = FollowOf(lead);
  if (follow.count == 0) return {Form::kInvalid, 1};
  for (size_t i = 1; i <= follow.count; ++i) {
    if (i == bytes.size()) return {Form::kUnfinished, i};
    const uint8_t byte = static_cast<uint8_t>(bytes[i]);
    const uint8_t low = i == 1 ? follow.low : 0x80;
    const uint8_t high = i == 1 ? follow.high : 0xBF;
    if (byte < low || byte > high) return {Form::kInvalid, i};
  }
  return {Form::kCharacter, follow.count + 1};
}

}  // namespace

bool IsValidUtf8(std::string_view text) {
  while (!text.empty()) {
    const Part part = FirstPart(text);
    if (part.form != Form::kCharacter) return false;
    text.remove_prefix(part.size);
  }
  return true;
}

size_t IncompleteUtf8Suffix(std::string_view bytes) {
  for (size_t size = std::min<size_t>(3, bytes.size()); size > 0; --size) {
    const Part part = FirstPart(bytes.substr(bytes.size() - size));
    if (part.form == Form::kUnfinished && part.size == size) return size;
  }
  return 0;
}

std::string Utf8Assembler::Push(std::string_view bytes) {
  const std::string joined = std::exchange(unfinished_, {}).append(bytes);
  std::string text;
  std::string_view rest = joined;
  while (!rest.empty()) {
    const Part part = FirstPart(rest);
    if (part.form == Form::kUnfinished) {
      unfinished_ = rest;
      break;
    }
    text.append(part.form == Form::kCharacter ? rest.substr(0, part.size) : kReplacementCharacter);
    rest.remove_prefix(part.size);
  }
  return text;
}

std::string Utf8Assembler::Flush() {
  return std::exchange(unfinished_, {}).empty() ? std::string()
                                                : std::string(kReplacementCharacter);
}

}  // namespace mayfly
