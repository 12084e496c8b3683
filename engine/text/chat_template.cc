#include "engine/text/chat_template.h"

#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "engine/base/utf8.h"
#include "engine/text/read_file.h"
#include "engine/text/rust_text.h"
#include "nlohmann/json.hpp"

namespace mayfly {
namespace {

using Json = nlohmann::json;

// Keys such as "bos_token", whose value is a token or {"content": token, ...}.
ChatTemplate::SpecialTokens SpecialTokensIn(const Json& config) {
  ChatTemplate::SpecialTokens tokens;
  for (const auto& [key, value] : config.items()) {
    if (!std::string_view(key).ends_with("_token")) continue;
    if (value.is_string()) {
      tokens[key] = value.get<std::string>();
    } else if (value.is_object() && value.contains("content") && value["content"].is_string()) {
      tokens[key] = value["content"].get<std::string>();
    }
  }
  return tokens;
}

// The value of "chat_template": a text, or a list of named ones, of which the default counts.
std::string SourceIn(const Json& config) {
  const Json value = config.value("chat_template", Json());
  if (value.is_string()) return value.get<std::string>();
  if (!value.is_array()) return {};
  for (const Json& entry : value) {
    if (entry.is_object() && entry.value("name", Json()) == "default" &&
        entry.value("template", Json()).is_string()) {
      return entry["template"].get<std::string>();
    }
  }
  return {};
}

}  // namespace

void ChatTemplate::Free::operator()(RustChatTemplate* chat_template) const {
  mayfly_chat_template_free(chat_template);
}

ChatTemplate::ChatTemplate(Handle handle, SpecialTokens special_tokens)
    : handle_(std::move(handle)), special_tokens_(std::move(special_tokens)) {}

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::Load(const std::string& model_dir) {
  Json config = Json::object();
  const std::string config_path = model_dir + "/tokenizer_config.json";
  if (absl::StatusOr<std::string> text = ReadFile(config_path); text.ok()) {
    config = Json::parse(*text, /*cb=*/nullptr, /*allow_exceptions=*/false);
    if (!config.is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(config_path, " is not a JSON object"));
    }
  } else if (!absl::IsNotFound(text.status())) {
    return text.status();
  }

  absl::StatusOr<std::string> source = ReadFile(model_dir + "/chat_template.jinja");
  if (absl::IsNotFound(source.status())) source = SourceIn(config);
  MAYFLY_RETURN_IF_ERROR(source.status());
  if (source->empty()) return absl::NotFoundError("the model has no chat template");
  return FromSource(*source, SpecialTokensIn(config));
}

absl::StatusOr<std::unique_ptr<ChatTemplate>> ChatTemplate::FromSource(
    std::string_view source, SpecialTokens special_tokens) {
  RustBuffer error;
  Handle handle(mayfly_chat_template_new(RustBytes(source), source.size(), error.out()));
  if (handle == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("chat template: ", error.ToString()));
  }
  return std::unique_ptr<ChatTemplate>(
      new ChatTemplate(std::move(handle), std::move(special_tokens)));
}

absl::StatusOr<std::string> ChatTemplate::Render(std::span<const ChatMessage> messages,
                                                 bool add_generation_prompt) const {
  // In the order of Python's dictionaries, which a template that prints a whole message shows.
  nlohmann::ordered_json context = nlohmann::ordered_json::object();
  for (const auto& [name, token] : special_tokens_) context[name] = token;
  context["add_generation_prompt"] = add_generation_prompt;
  // Templates tell these apart from undefined.
  context["tools"] = nullptr;
  context["documents"] = nullptr;
  nlohmann::ordered_json& list = context["messages"] = nlohmann::ordered_json::array();
  for (const ChatMessage& message : messages) {
    if (!IsValidUtf8(message.role) || !IsValidUtf8(message.content)) {
      return absl::InvalidArgumentError(absl::StrCat("message ", list.size(), " is not UTF-8"));
    }
    list.push_back({{"role", message.role}, {"content", message.content}});
  }
  const std::string json = context.dump();
  RustBuffer out;
  if (!mayfly_chat_template_render(handle_.get(), RustBytes(json), json.size(), out.out())) {
    return absl::InvalidArgumentError(absl::StrCat("chat template: ", out.ToString()));
  }
  return out.ToString();
}

}  // namespace mayfly
