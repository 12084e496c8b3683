#pragma once

// Turns generated tokens into text and matches stop strings, off the loop thread, and hands every
// event of a row to its sink in order. Also tokenizes, on a thread of its own, so that a long
// append delays nobody's tokens. Owned by the engine loop; Post and Tokenize are called on any
// thread.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>
#include <variant>
#include <vector>

#include "engine/base/mailbox.h"
#include "engine/engine.h"
#include "engine/text/chat_template.h"
#include "engine/text/incremental_decoder.h"
#include "engine/text/stop_matcher.h"
#include "engine/text/tokenizer.h"
#include "engine/types.h"

namespace mayfly {

// What the loop sends besides finished events.
struct GenerationBegun {
  std::vector<std::string> stop;
  // The newest tokens before the generation: what its first word follows.
  std::vector<TokenId> context;
};
struct TokenProduced {
  GeneratedToken token;
  // Ends the text without being part of it (end of sequence, stop token).
  bool hidden = false;
};
// A generation ended in the loop. One that matched a stop string meanwhile answers only this with
// `stop_confirmed`.
struct GenerationEnded {
  GenerationDone done;
  bool stop_confirmed = false;
};
struct GenerationAtHorizon {
  uint64_t position = 0;
};
// Passed on as it is.
struct PlainEvent {
  EngineEvent event;
};

struct DeliveryItem {
  RowHandle row;
  std::shared_ptr<TokenSink> sink;
  WorkId id = 0;
  std::variant<GenerationBegun, TokenProduced, GenerationEnded, GenerationAtHorizon, PlainEvent>
      body;
};

class Delivery {
 public:
  // `on_stop(row, id, tokens)`: the generation's text matched a stop string with its token number
  // `tokens` (counted from 1); later tokens are to be dropped. Called on the delivery thread.
  Delivery(const Tokenizer* tokenizer, const ChatTemplate* chat_template,
           std::function<void(RowHandle, WorkId, int32_t)> on_stop);
  // Delivers what waits, then joins its threads.
  ~Delivery();

  void Post(DeliveryItem item);
  void Tokenize(TextInput text, WorkId id, std::shared_ptr<TokenSink> sink);

 private:
  struct TextJob {
    TextInput text;
    WorkId id;
    std::shared_ptr<TokenSink> sink;
  };
  // One generation's text so far.
  struct Stream {
    uint64_t generation = 0;
    WorkId id = 0;
    std::unique_ptr<IncrementalDecoder> decoder;
    std::unique_ptr<StopMatcher> matcher;
    int32_t tokens = 0;
    bool stopped = false;
  };

  void DeliveryMain();
  void TextMain();
  void Deliver(DeliveryItem item);
  void DeliverToken(Stream& stream, DeliveryItem& item, TokenProduced& produced);
  void DeliverEnd(Stream& stream, const DeliveryItem& item, const GenerationEnded& ended);
  void FillAlternatives(GeneratedToken& token) const;
  absl::StatusOr<std::vector<TokenId>> Encode(const TextInput& text) const;

  const Tokenizer* const tokenizer_;
  const ChatTemplate* const chat_template_;  // null: the model has none
  const std::function<void(RowHandle, WorkId, int32_t)> on_stop_;

  std::unordered_map<int32_t, Stream> streams_;  // by row; delivery thread only

  Mailbox<DeliveryItem> items_;
  Mailbox<TextJob> text_jobs_;
  std::thread delivery_thread_;
  std::thread text_thread_;
};

}  // namespace mayfly
