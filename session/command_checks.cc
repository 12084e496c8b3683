#include "session/command_checks.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/base/utf8.h"

namespace mayfly {
namespace {

absl::Status CheckText(const std::string& what, const std::string& text) {
  if (text.empty()) return absl::InvalidArgumentError(absl::StrCat(what, " is empty"));
  if (!IsValidUtf8(text)) {
    return absl::InvalidArgumentError(absl::StrCat(what, " is not valid UTF-8"));
  }
  return absl::OkStatus();
}

absl::Status CheckMessages(const std::vector<ChatMessage>& messages) {
  if (messages.empty()) return absl::InvalidArgumentError("messages is empty");
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string name = absl::StrCat("messages[", i, "]");
    MAYFLY_RETURN_IF_ERROR(CheckText(name + ".role", messages[i].role));
    if (!IsValidUtf8(messages[i].content)) {
      return absl::InvalidArgumentError(name + ".content is not valid UTF-8");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckStops(const std::vector<std::string>& stops) {
  if (stops.size() > kMaxStopStrings) {
    return absl::InvalidArgumentError(
        absl::StrCat("stop has ", stops.size(), " strings, the limit is ", kMaxStopStrings));
  }
  for (size_t i = 0; i < stops.size(); ++i) {
    MAYFLY_RETURN_IF_ERROR(CheckText(absl::StrCat("stop[", i, "]"), stops[i]));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckLabel(const std::string& label) {
  if (label.size() <= kMaxLabelBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("label has ", label.size(), " bytes, the limit is ", kMaxLabelBytes));
}

absl::Status CheckAppend(const AppendCommand& command) {
  if (const auto* ids = std::get_if<std::vector<uint32_t>>(&command.input)) {
    return ids->empty() ? absl::InvalidArgumentError("token_ids is empty") : absl::OkStatus();
  }
  if (const auto* input = std::get_if<TextInput>(&command.input)) {
    if (const auto* text = std::get_if<std::string>(input)) return CheckText("text", *text);
    return CheckMessages(std::get<ChatInput>(*input).messages);
  }
  return absl::InvalidArgumentError("append has no input: set text, token_ids or messages");
}

absl::Status CheckAppendLength(size_t tokens, const SessionLimits& limits) {
  if (tokens == 0) return absl::InvalidArgumentError("the input has no tokens");
  if (tokens <= static_cast<size_t>(limits.max_append_tokens)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the append has ", tokens,
                                                 " tokens, the limit max_append_tokens is ",
                                                 limits.max_append_tokens));
}

absl::StatusOr<std::vector<TokenId>> CheckTokenIds(const std::vector<uint32_t>& ids,
                                                   int32_t vocabulary) {
  std::vector<TokenId> tokens;
  tokens.reserve(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= static_cast<uint32_t>(vocabulary)) {
      return absl::InvalidArgumentError(absl::StrCat("token id ", ids[i], " at index ", i,
                                                     " lies outside the vocabulary of ", vocabulary,
                                                     " tokens"));
    }
    tokens.push_back(static_cast<TokenId>(ids[i]));
  }
  return tokens;
}

absl::Status CheckGenerate(const GenerateCommand& command, const SessionLimits& limits) {
  if (command.max_tokens == 0 ||
      command.max_tokens > static_cast<uint32_t>(limits.max_generate_tokens)) {
    return absl::InvalidArgumentError(absl::StrCat("max_tokens is ", command.max_tokens,
                                                   ", it must be between 1 and ",
                                                   limits.max_generate_tokens));
  }
  if (command.continued_tokens > static_cast<uint32_t>(limits.max_generate_tokens)) {
    return absl::InvalidArgumentError(absl::StrCat("continued_tokens is ", command.continued_tokens,
                                                   ", the limit is ", limits.max_generate_tokens));
  }
  if (command.logprobs > kMaxLogprobs) {
    return absl::InvalidArgumentError(
        absl::StrCat("logprobs is ", command.logprobs, ", the limit is ", kMaxLogprobs));
  }
  if (command.stop_token_ids.size() > kMaxStopTokens) {
    return absl::InvalidArgumentError(absl::StrCat("stop_token_ids has ",
                                                   command.stop_token_ids.size(),
                                                   " ids, the limit is ", kMaxStopTokens));
  }
  return CheckStops(command.stop);
}

}  // namespace mayfly
