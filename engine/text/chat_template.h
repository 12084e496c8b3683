#pragma once

// The model's chat template, rendered as Hugging Face's `apply_chat_template` does it. Immutable
// after construction; any thread.

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/types.h"

namespace mayfly {

struct RustChatTemplate;

class ChatTemplate {
 public:
  // Names a template may use for the model's special tokens: "bos_token" -> "<s>".
  using SpecialTokens = std::map<std::string, std::string>;

  // Reads chat_template.jinja or, without one, tokenizer_config.json. NotFound if the model has no
  // chat template.
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> Load(const std::string& model_dir);
  static absl::StatusOr<std::unique_ptr<ChatTemplate>> FromSource(std::string_view source,
                                                                  SpecialTokens special_tokens);

  // InvalidArgument with the template's own words if it refuses the messages (an unknown role, a
  // turn out of order), or for text that is not UTF-8. `add_generation_prompt` ends the text where
  // the assistant's answer begins.
  absl::StatusOr<std::string> Render(std::span<const ChatMessage> messages,
                                     bool add_generation_prompt) const;

 private:
  struct Free {
    void operator()(RustChatTemplate* chat_template) const;
  };
  using Handle = std::unique_ptr<RustChatTemplate, Free>;

  ChatTemplate(Handle handle, SpecialTokens special_tokens);

  const Handle handle_;
  const SpecialTokens special_tokens_;
};

}  // namespace mayfly
