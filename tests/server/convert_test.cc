#include "server/convert.h"

#include <cmath>
#include <string>
#include <variant>
#include <vector>

#include "gmock/gmock.h"
#include "google/protobuf/descriptor.h"
#include "google/protobuf/text_format.h"
#include "google/protobuf/util/message_differencer.h"
#include "gtest/gtest.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Optional;

template <typename Message>
Message FromText(const std::string& text) {
  Message message;
  EXPECT_TRUE(google::protobuf::TextFormat::ParseFromString(text, &message)) << text;
  return message;
}

SessionCommand Command(const std::string& text) {
  return ToCommand(FromText<v1::SessionRequest>(text));
}

absl::Status Refusal(const std::string& text) {
  const SessionCommand command = Command(text);
  const auto* invalid = std::get_if<InvalidCommand>(&command);
  return invalid == nullptr ? absl::OkStatus() : invalid->status;
}

// Compares with the message that `text` describes.
MATCHER_P(IsProto, text, text) {
  std::decay_t<decltype(arg)> expected;
  if (!google::protobuf::TextFormat::ParseFromString(text, &expected)) return false;
  *result_listener << arg.ShortDebugString();
  return google::protobuf::util::MessageDifferencer::Equals(arg, expected);
}

TEST(ConvertTest, AnEmptyOpenWishesForNothing) {
  const auto open = std::get<OpenCommand>(Command("open {}"));
  EXPECT_EQ(open.adaptation.preset, std::nullopt);
  EXPECT_EQ(open.adaptation.rank, std::nullopt);
  EXPECT_EQ(open.sampling.temperature, std::nullopt);
  EXPECT_EQ(open.window_tokens, std::nullopt);
  EXPECT_EQ(open.seed, std::nullopt);
}

TEST(ConvertTest, EveryAdaptationOptionArrives) {
  const auto open = std::get<OpenCommand>(Command(R"(open { adaptation {
      preset: PRESET_PAPER rank: 4 alpha: 5 target_modules: TARGET_MODULES_MLP first_layer: 6
      chunk_tokens: 7 context_tokens: 8 epochs: 9 gradient_scope: GRADIENT_SCOPE_WINDOW
      learning_rate: 0.1 warmup_chunks: 10 weight_decay: 0.2 beta1: 0.3 beta2: 0.4 eps: 0.5
      grad_clip: 0.6 dropout: 0.7 mode: MODE_PARALLEL max_lag_chunks: 11
      kv_policy: KV_POLICY_REFRESH_EVERY refresh_every: 12 learn_from: LEARN_FROM_OUTPUT
      output_weight: 0.8 receipt: true gate: false gate_threshold: 0.9 init: INIT_ACTIVATION
      seed: 13 target_inter_token_ms: 14.5 } })"));
  const AdaptationWishes& wishes = open.adaptation;
  EXPECT_THAT(wishes.preset, Optional(Preset::kPaper));
  EXPECT_THAT(wishes.rank, Optional(4));
  EXPECT_THAT(wishes.alpha, Optional(5.0));
  EXPECT_THAT(wishes.target_modules, Optional(TargetModules::kMlp));
  EXPECT_THAT(wishes.first_layer, Optional(6));
  EXPECT_THAT(wishes.chunk_tokens, Optional(7));
  EXPECT_THAT(wishes.context_tokens, Optional(8));
  EXPECT_THAT(wishes.epochs, Optional(9));
  EXPECT_THAT(wishes.gradient_scope, Optional(GradientScope::kWindow));
  EXPECT_THAT(wishes.learning_rate, Optional(0.1));
  EXPECT_THAT(wishes.warmup_chunks, Optional(10));
  EXPECT_THAT(wishes.weight_decay, Optional(0.2));
  EXPECT_THAT(wishes.beta1, Optional(0.3));
  EXPECT_THAT(wishes.beta2, Optional(0.4));
  EXPECT_THAT(wishes.eps, Optional(0.5));
  EXPECT_THAT(wishes.grad_clip, Optional(0.6));
  EXPECT_THAT(wishes.dropout, Optional(0.7));
  EXPECT_THAT(wishes.mode, Optional(UpdateMode::kParallel));
  EXPECT_THAT(wishes.max_lag_chunks, Optional(11));
  EXPECT_THAT(wishes.kv_policy, Optional(KvPolicy::kRefreshEvery));
  EXPECT_THAT(wishes.refresh_every, Optional(12));
  EXPECT_THAT(wishes.learn_from, Optional(LearnFrom::kOutput));
  EXPECT_THAT(wishes.output_weight, Optional(0.8));
  EXPECT_THAT(wishes.receipt, Optional(true));
  EXPECT_THAT(wishes.gate, Optional(false));
  EXPECT_THAT(wishes.gate_threshold, Optional(0.9));
  EXPECT_THAT(wishes.init, Optional(AdapterInit::kActivation));
  EXPECT_THAT(wishes.seed, Optional(13u));
  EXPECT_THAT(wishes.target_inter_token_ms, Optional(14.5));
}

TEST(ConvertTest, EverySamplingOptionArrivesAndZeroIsAValue) {
  const auto generate = std::get<GenerateCommand>(Command(R"(generate {
      max_tokens: 9 stop: "x" stop: "y" stop_token_ids: 3 ignore_eos: true logprobs: 2
      sampling { temperature: 0 top_p: 0.1 top_k: 0 min_p: 0.2 repetition_penalty: 0.3
                 frequency_penalty: 0.4 presence_penalty: 0.5 seed: 0 } })"));
  EXPECT_EQ(generate.max_tokens, 9u);
  EXPECT_THAT(generate.stop, ElementsAre("x", "y"));
  EXPECT_THAT(generate.stop_token_ids, ElementsAre(3u));
  EXPECT_TRUE(generate.ignore_eos);
  EXPECT_EQ(generate.logprobs, 2u);
  EXPECT_THAT(generate.sampling.temperature, Optional(0.0));
  EXPECT_THAT(generate.sampling.top_p, Optional(0.1));
  EXPECT_THAT(generate.sampling.top_k, Optional(0));
  EXPECT_THAT(generate.sampling.min_p, Optional(0.2));
  EXPECT_THAT(generate.sampling.repetition_penalty, Optional(0.3));
  EXPECT_THAT(generate.sampling.frequency_penalty, Optional(0.4));
  EXPECT_THAT(generate.sampling.presence_penalty, Optional(0.5));
  EXPECT_THAT(generate.sampling.seed, Optional(0u));
}

TEST(ConvertTest, AppendTakesEachKindOfInput) {
  const auto text = std::get<AppendCommand>(Command("append { text: 'hi' }"));
  EXPECT_EQ(std::get<std::string>(std::get<TextInput>(text.input)), "hi");
  EXPECT_TRUE(text.learn);
  EXPECT_FALSE(text.score);

  const auto ids = std::get<AppendCommand>(
      Command("append { token_ids { ids: 1 ids: 4294967295 } learn: false }"));
  EXPECT_THAT(std::get<std::vector<uint32_t>>(ids.input), ElementsAre(1u, 4294967295u));
  EXPECT_FALSE(ids.learn);

  const auto chat =
      std::get<AppendCommand>(Command("append { messages { messages { role: 'user' content: 'hi' } "
                                      "add_generation_prompt: false } }"));
  const ChatInput& messages = std::get<ChatInput>(std::get<TextInput>(chat.input));
  ASSERT_EQ(messages.messages.size(), 1u);
  EXPECT_EQ(messages.messages[0].role, "user");
  EXPECT_EQ(messages.messages[0].content, "hi");
  EXPECT_FALSE(messages.add_generation_prompt);
}

TEST(ConvertTest, AnAppendWithoutInputIsTheSessionsToRefuse) {
  const auto append = std::get<AppendCommand>(Command("append {}"));
  EXPECT_TRUE(std::holds_alternative<std::monostate>(append.input));
}

TEST(ConvertTest, AskingForMoreThanAScoreAsksForTheScore) {
  EXPECT_TRUE(std::get<AppendCommand>(Command("append { text: '' token_logprobs: true }")).score);
  EXPECT_TRUE(std::get<AppendCommand>(Command("append { text: '' compare_base: true }")).score);
}

TEST(ConvertTest, CancelAdaptAndCloseArrive) {
  EXPECT_EQ(std::get<CancelCommand>(Command("cancel { request_id: 5 }")).target, 5u);
  const auto adapt =
      std::get<AdaptCommand>(Command("adapt { action: ADAPT_ACTION_RESET options { eps: 1 } }"));
  EXPECT_EQ(adapt.action, AdaptAction::kReset);
  EXPECT_THAT(adapt.options.eps, Optional(1.0));
  EXPECT_TRUE(std::holds_alternative<CloseCommand>(Command("close {}")));
}

TEST(ConvertTest, WhatMovesASessionArrives) {
  const auto open = std::get<OpenCommand>(Command("open { resume_token: 'x' label: 'y' }"));
  EXPECT_EQ(open.resume_token, "x");
  EXPECT_EQ(open.label, "y");
  EXPECT_EQ(std::get<OpenCommand>(Command("open { snapshot_bytes: 9 }")).snapshot_bytes, 9u);
  EXPECT_EQ(std::get<OpenCommand>(Command("open { resume_token: 'x' adaptation {} sampling {} }"))
                .resume_token,
            "x")
      << "empty messages wish for nothing";
  EXPECT_EQ(std::get<RestoreCommand>(Command("restore { data: 'abc' }")).data, "abc");
  const auto to_export =
      std::get<ExportCommand>(Command("export { format: EXPORT_FORMAT_SNAPSHOT store: true }"));
  EXPECT_EQ(to_export.format, ExportFormat::kSnapshot);
  EXPECT_TRUE(to_export.store);
  EXPECT_EQ(std::get<AppendCommand>(Command("append { skip_tokens: 7 }")).skip_tokens, 7u);
  EXPECT_EQ(std::get<GenerateCommand>(Command("generate { continued_tokens: 7 }")).continued_tokens,
            7u);
}

TEST(ConvertTest, WhatCannotBeReadIsRefusedByName) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"request_id: 1", "no command"},
      {"adapt {}", "adapt asks for nothing"},
      {"export {}", "PEFT or SNAPSHOT"},
      {"export { format: EXPORT_FORMAT_PEFT store: true }", "store is for snapshots"},
      {"open { resume_token: 'x' seed: 1 }", "none may be set but label"},
      {"open { snapshot_bytes: 9 adaptation { rank: 4 } }", "none may be set but label"},
      {"open { snapshot_bytes: 9 sampling { top_k: 4 } }", "none may be set but label"},
  };
  for (const auto& [request, message] : cases) {
    EXPECT_THAT(Refusal(request), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
  }
}

TEST(ConvertTest, AnUnknownEnumValueIsRefusedByFieldAndValue) {
  v1::SessionRequest request;
  request.mutable_open()->mutable_adaptation()->set_kv_policy(static_cast<v1::KvPolicy>(77));
  EXPECT_THAT(std::get<InvalidCommand>(ToCommand(request)).status,
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("kv_policy is 77")));
  request.mutable_adapt()->set_action(static_cast<v1::AdaptAction>(-1));
  EXPECT_THAT(std::get<InvalidCommand>(ToCommand(request)).status,
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("action is -1")));
}

TEST(ConvertTest, EffectiveOptionsSetEveryField) {
  const v1::AdaptationOptions adaptation = ToProto(AdaptationOptions{});
  const v1::SamplingOptions sampling = ToProto(SamplingOptions{});
  for (const google::protobuf::Message* message :
       std::initializer_list<const google::protobuf::Message*>{&adaptation, &sampling}) {
    const auto* descriptor = message->GetDescriptor();
    for (int i = 0; i < descriptor->field_count(); ++i) {
      EXPECT_TRUE(message->GetReflection()->HasField(*message, descriptor->field(i)))
          << descriptor->field(i)->full_name();
    }
  }
}

TEST(ConvertTest, OpenedSaysWhatWasReserved) {
  OpenedEvent opened;
  opened.session_id = "s";
  opened.window_tokens = 64;
  opened.reserved = {.kv = 1, .adapter = 2, .optimizer = 3};
  const v1::SessionResponse response = ToResponse({4, opened});
  EXPECT_EQ(response.request_id(), 4u);
  EXPECT_EQ(response.opened().session_id(), "s");
  EXPECT_EQ(response.opened().window_tokens(), 64u);
  EXPECT_THAT(response.opened().reserved_bytes(), IsProto("kv: 1 adapter: 2 optimizer: 3"));
}

TEST(ConvertTest, AScoreIsAbsentUnlessMeasured) {
  EXPECT_FALSE(ToResponse({0, AppendedEvent{}}).appended().has_nll());
  AppendedEvent scored;
  scored.done = true;
  scored.tokens = 3;
  scored.window_position = 5;
  scored.scored_tokens = 2;
  scored.nll = 1.5;
  scored.token_logprobs = {-1, -0.5};
  EXPECT_THAT(ToResponse({9, scored}),
              IsProto("request_id: 9 appended { done: true tokens: 3 window_position: 5 "
                      "scored_tokens: 2 nll: 1.5 token_logprobs: -1 token_logprobs: -0.5 }"));
}

TEST(ConvertTest, ADeltaCarriesItsTokens) {
  const DeltaEvent delta{
      {.text = "hi",
       .tokens = {{.id = 7, .logprob = -0.5, .adapter_version = 2, .top = {{8, -1, "\xff"}}}}}};
  EXPECT_THAT(ToResponse({1, delta}),
              IsProto("request_id: 1 delta { text: 'hi' tokens { id: 7 logprob: -0.5 "
                      "adapter_version: 2 top { id: 8 logprob: -1 text: '\\377' } } }"));
}

TEST(ConvertTest, AnUpdateCarriesItsReceipt) {
  UpdateEvent update;
  update.chunk_index = 3;
  update.tokens = 8;
  update.merged_chunks = 2;
  update.lag_chunks = 3;
  update.learning_rate = 0.5;
  update.base_nll = 2;
  update.result = {.outcome = UpdateOutcome::kRolledBack,
                   .reason = "worse",
                   .adapter_version = 4,
                   .label_tokens = 7,
                   .losses = {2, 1},
                   .gradient_norms = {0.25},
                   .queue_seconds = 1,
                   .train_seconds = 2};
  EXPECT_THAT(ToResponse({0, update}),
              IsProto("update { outcome: UPDATE_OUTCOME_ROLLED_BACK reason: 'worse' chunk_index: 3 "
                      "tokens: 8 label_tokens: 7 adapter_version: 4 learning_rate: 0.5 losses: 2 "
                      "losses: 1 gradient_norms: 0.25 base_nll: 2 queue_seconds: 1 "
                      "train_seconds: 2 merged_chunks: 2 lag_chunks: 3 }"));
}

TEST(ConvertTest, TheEndOfAGenerationArrives) {
  GeneratedEvent generated;
  generated.reason = FinishReason::kEos;
  generated.usage = {1, 2, 3};
  generated.queue_seconds = 0.25;
  generated.first_token_seconds = 0.5;
  generated.total_seconds = 2;
  EXPECT_THAT(ToResponse({1, generated}).generated(),
              IsProto("finish_reason: FINISH_REASON_EOS "
                      "usage { prompt_tokens: 1 generated_tokens: 2 trained_tokens: 3 } "
                      "timings { queue_seconds: 0.25 time_to_first_token_seconds: 0.5 "
                      "          total_seconds: 2 }"));
}

TEST(ConvertTest, TheOtherEventsArrive) {
  AdaptedEvent adapted;
  adapted.adapter_version = 2;
  adapted.paused = true;
  EXPECT_EQ(ToResponse({1, adapted}).adapted().adapter_version(), 2u);
  EXPECT_TRUE(ToResponse({1, adapted}).adapted().paused());

  EXPECT_THAT(ToResponse({0, DrainingEvent{12.5, {}}}), IsProto("draining { deadline: 12.5 }"));
  EXPECT_THAT(ToResponse({0, DrainingEvent{12.5, "token"}}),
              IsProto("draining { deadline: 12.5 resume_token: 'token' }"));

  ExportedEvent exported;
  exported.file = "a.bin";
  exported.offset = 3;
  exported.file_bytes = 12;
  exported.data = "123456789";
  exported.done = true;
  // The check value of CRC-32 (its catalogue entry's result for these nine digits).
  EXPECT_THAT(ToResponse({4, exported}),
              IsProto("request_id: 4 exported { file: 'a.bin' offset: 3 file_bytes: 12 "
                      "data: '123456789' crc32: 0xcbf43926 done: true }"));
  EXPECT_THAT(ToResponse({2, ErrorEvent{absl::NotFoundError("x")}}),
              IsProto("request_id: 2 error { code: 5 message: 'x' }"));

  ClosedEvent closed;
  closed.reason = "closed";
  closed.updates = 2;
  closed.freed_bytes = 8;
  EXPECT_THAT(ToResponse({0, closed}),
              IsProto("closed { reason: 'closed' usage {} updates: 2 freed_bytes: 8 }"));
}

}  // namespace
}  // namespace mayfly
