#include "engine/runtime/delivery.h"

#include <utility>

#include "engine/base/status_macros.h"

namespace mayfly {
namespace {

// Bounded by what the rows can have in flight; never reached.
constexpr size_t kUnbounded = static_cast<size_t>(-1);

}  // namespace

Delivery::Delivery(const Tokenizer* tokenizer, const ChatTemplate* chat_template,
                   std::function<void(RowHandle, WorkId, int32_t)> on_stop)
    : tokenizer_(tokenizer),
      chat_template_(chat_template),
      on_stop_(std::move(on_stop)),
      items_(kUnbounded),
      text_jobs_(kUnbounded),
      delivery_thread_([this] { DeliveryMain(); }),
      text_thread_([this] { TextMain(); }) {}

Delivery::~Delivery() {
  text_jobs_.Close();
  text_thread_.join();
  items_.Close();
  delivery_thread_.join();
}

void Delivery::Post(DeliveryItem item) { items_.PostUnbounded(std::move(item)); }

void Delivery::Tokenize(TextInput text, WorkId id, std::shared_ptr<TokenSink> sink) {
  text_jobs_.PostUnbounded({std::move(text), id, std::move(sink)});
}

void Delivery::DeliveryMain() {
  while (true) {
    std::deque<DeliveryItem> items = items_.WaitAndTakeAll();
    if (items.empty()) return;
    for (DeliveryItem& item : items) Deliver(std::move(item));
  }
}

void Delivery::TextMain() {
  while (true) {
    std::deque<TextJob> jobs = text_jobs_.WaitAndTakeAll();
    if (jobs.empty()) return;
    for (TextJob& job : jobs) {
      // Through the delivery thread: a sink hears from one thread only.
      Post({{}, std::move(job.sink), job.id, PlainEvent{{job.id, Tokenized{Encode(job.text)}}}});
    }
  }
}

absl::StatusOr<std::vector<TokenId>> Delivery::Encode(const TextInput& text) const {
  if (const auto* plain = std::get_if<std::string>(&text)) return tokenizer_->Encode(*plain);
  if (chat_template_ == nullptr) {
    return absl::FailedPreconditionError("the model has no chat template, append text instead");
  }
  const ChatInput& chat = std::get<ChatInput>(text);
  MAYFLY_ASSIGN_OR_RETURN(const std::string rendered,
                          chat_template_->Render(chat.messages, chat.add_generation_prompt));
  return tokenizer_->Encode(rendered);
}

void Delivery::Deliver(DeliveryItem item) {
  if (auto* plain = std::get_if<PlainEvent>(&item.body)) {
    item.sink->Offer(std::move(plain->event));
    return;
  }
  Stream& stream = streams_[item.row.row];
  if (auto* begun = std::get_if<GenerationBegun>(&item.body)) {
    stream = {
        item.row.generation, item.id,
        std::make_unique<IncrementalDecoder>(tokenizer_, /*skip_special=*/true, begun->context),
        std::make_unique<StopMatcher>(std::move(begun->stop))};
  } else if (auto* produced = std::get_if<TokenProduced>(&item.body)) {
    if (!stream.stopped) DeliverToken(stream, item, *produced);
  } else if (auto* ended = std::get_if<GenerationEnded>(&item.body)) {
    DeliverEnd(stream, item, *ended);
  } else if (auto* horizon = std::get_if<GenerationAtHorizon>(&item.body)) {
    if (!stream.stopped) item.sink->Offer({item.id, GenerationPaused{horizon->position}});
  }
}

void Delivery::DeliverToken(Stream& stream, DeliveryItem& item, TokenProduced& produced) {
  ++stream.tokens;
  TextDelta delta;
  if (!produced.hidden) {
    delta.text = stream.matcher->Push(stream.decoder->Push(produced.token.id));
  }
  FillAlternatives(produced.token);
  delta.tokens.push_back(std::move(produced.token));
  item.sink->Offer({item.id, std::move(delta)});
  if (stream.matcher->match()) {
    stream.stopped = true;
    on_stop_(item.row, item.id, stream.tokens);
  }
}

void Delivery::DeliverEnd(Stream& stream, const DeliveryItem& item, const GenerationEnded& ended) {
  if (stream.stopped && !ended.stop_confirmed) return;  // the loop will confirm the stop
  if (!stream.stopped) {
    std::string rest;
    if (ended.done.reason != FinishReason::kCancelled) {
      rest = stream.matcher->Push(stream.decoder->Flush());
    }
    rest += stream.matcher->Flush();
    if (!rest.empty()) item.sink->Offer({item.id, TextDelta{std::move(rest), {}}});
  }
  item.sink->Offer({item.id, ended.done});
  streams_.erase(item.row.row);
}

void Delivery::FillAlternatives(GeneratedToken& token) const {
  for (TokenAlternative& alternative : token.top) {
    alternative.text = std::string(tokenizer_->TokenBytes(alternative.id));
  }
}

}  // namespace mayfly
