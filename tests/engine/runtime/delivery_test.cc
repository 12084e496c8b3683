#include "engine/runtime/delivery.h"

#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/text/goldens.h"
#include "tests/engine/tiny_tokenizer.h"
#include "tests/support/recording_sink.h"
#include "tests/support/status_matchers.h"

namespace mayfly {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Stop = std::tuple<int32_t, WorkId, int32_t>;  // row, work, tokens

GeneratedToken Token(TokenId id) {
  GeneratedToken token;
  token.id = id;
  return token;
}

// What one generation delivers. Calls queue up; Finish lets everything be delivered.
class DeliveryTest : public testing::Test {
 protected:
  explicit DeliveryTest(std::unique_ptr<Tokenizer> tokenizer = TinyTokenizer())
      : tokenizer_(std::move(tokenizer)),
        delivery_(std::make_unique<Delivery>(tokenizer_.get(), nullptr,
                                             [this](RowHandle row, WorkId id, int32_t tokens) {
                                               stops_.emplace_back(row.row, id, tokens);
                                             })) {}

  void Post(decltype(DeliveryItem::body) body, int32_t row = 0, WorkId id = 1) {
    delivery_->Post({{row, 1}, sinks_[row], id, std::move(body)});
  }
  void Begin(std::vector<std::string> stop = {}, int32_t row = 0, WorkId id = 1) {
    if (sinks_[row] == nullptr) sinks_[row] = std::make_shared<RecordingSink>();
    Post(GenerationBegun{std::move(stop), {}}, row, id);
  }
  void Produce(TokenId token, bool hidden = false, int32_t row = 0, WorkId id = 1) {
    Post(TokenProduced{Token(token), hidden}, row, id);
  }
  void ProduceText(const std::string& text, int32_t row = 0, WorkId id = 1) {
    for (const TokenId token : TinyTokens(text)) Produce(token, false, row, id);
  }
  void End(FinishReason reason, bool stop_confirmed = false, int32_t row = 0, WorkId id = 1) {
    Post(GenerationEnded{{.reason = reason}, stop_confirmed}, row, id);
  }
  void Finish() { delivery_.reset(); }

  std::string Text(int32_t row = 0, WorkId id = 1) {
    std::string text;
    for (const TextDelta& delta : sinks_[row]->All<TextDelta>(id)) text += delta.text;
    return text;
  }
  std::vector<FinishReason> Ends(int32_t row = 0, WorkId id = 1) {
    std::vector<FinishReason> reasons;
    for (const auto& done : sinks_[row]->All<GenerationDone>(id)) reasons.push_back(done.reason);
    return reasons;
  }

  const std::unique_ptr<Tokenizer> tokenizer_;
  std::map<int32_t, std::shared_ptr<RecordingSink>> sinks_;
  std::vector<Stop> stops_;
  std::unique_ptr<Delivery> delivery_;
};

TEST_F(DeliveryTest, EachTokenIsADeltaWithItsTextAndTheEndComesLast) {
  Begin();
  ProduceText("abc");
  End(FinishReason::kLength);
  Finish();
  const std::vector<EngineEvent> events = sinks_[0]->events();
  ASSERT_EQ(events.size(), 4u);
  for (size_t i = 0; i < 3; ++i) {
    const TextDelta& delta = std::get<TextDelta>(events[i].body);
    EXPECT_EQ(events[i].work_id, 1u);
    EXPECT_EQ(delta.text, std::string(1, static_cast<char>('a' + i)));
    EXPECT_EQ(delta.tokens.at(0).id, TinyTokens("abc")[i]);
  }
  EXPECT_EQ(std::get<GenerationDone>(events[3].body).reason, FinishReason::kLength);
}

TEST_F(DeliveryTest, AHiddenTokenIsReportedWithoutText) {
  Begin();
  ProduceText("a");
  Produce(TinyTokens("b")[0], /*hidden=*/true);
  End(FinishReason::kEos);
  Finish();
  EXPECT_EQ(Text(), "a");
  EXPECT_EQ(sinks_[0]->All<TextDelta>(1).size(), 2u);
}

TEST_F(DeliveryTest, AStopStringEndsTheTextBeforeItAndTellsTheLoopWhichTokenCompletedIt) {
  Begin({"END"});
  ProduceText("so END and on");
  End(FinishReason::kStop, /*stop_confirmed=*/true);
  Finish();
  EXPECT_EQ(Text(), "so ");
  EXPECT_THAT(stops_, ElementsAre(Stop{0, 1, 6}));
  // The six tokens up to the stop and no more.
  EXPECT_EQ(sinks_[0]->All<TextDelta>(1).size(), 6u);
  EXPECT_THAT(Ends(), ElementsAre(FinishReason::kStop));
}

TEST_F(DeliveryTest, AnEndThatTheLoopReachedBeforeItKnewOfTheStopIsNotDelivered) {
  Begin({"b"});
  ProduceText("abc");
  End(FinishReason::kLength);
  End(FinishReason::kStop, /*stop_confirmed=*/true);
  Finish();
  EXPECT_EQ(Text(), "a");
  EXPECT_THAT(Ends(), ElementsAre(FinishReason::kStop));
}

TEST_F(DeliveryTest, APauseBehindAStopIsNotDelivered) {
  Begin({"b"});
  ProduceText("a");
  Post(GenerationAtHorizon{1});
  ProduceText("b");
  Post(GenerationAtHorizon{2});
  End(FinishReason::kStop, /*stop_confirmed=*/true);
  Finish();
  const auto pauses = sinks_[0]->All<GenerationPaused>(1);
  ASSERT_EQ(pauses.size(), 1u);
  EXPECT_EQ(pauses[0].position, 1u);
}

TEST_F(DeliveryTest, TextHeldBackForAStopThatDoesNotComeIsDeliveredAtTheEnd) {
  Begin({"END"});
  ProduceText("xEN");
  End(FinishReason::kLength);
  Finish();
  const auto deltas = sinks_[0]->All<TextDelta>(1);
  ASSERT_EQ(deltas.size(), 4u);
  EXPECT_EQ(deltas[1].text, "");  // it may be the start of the stop
  EXPECT_EQ(deltas[3].text, "EN");
  EXPECT_THAT(deltas[3].tokens, IsEmpty());
  EXPECT_THAT(Ends(), ElementsAre(FinishReason::kLength));
}

TEST_F(DeliveryTest, ANewGenerationInheritsNothingFromOneThatWasCutOff) {
  Begin({"ab"});
  ProduceText("a");  // held back, and never ended: the row was closed
  Begin({"ab"}, 0, 2);
  ProduceText("bc", 0, 2);
  End(FinishReason::kLength, false, 0, 2);
  Finish();
  EXPECT_EQ(Text(0, 2), "bc");
  EXPECT_THAT(stops_, IsEmpty());
}

TEST_F(DeliveryTest, RowsDoNotMeet) {
  Begin({"ad"}, 0);
  Begin({}, 1);
  ProduceText("a", 0);
  ProduceText("d", 1);
  ProduceText("b", 0);
  End(FinishReason::kLength, false, 0);
  End(FinishReason::kLength, false, 1);
  Finish();
  EXPECT_EQ(Text(0), "ab");
  EXPECT_EQ(Text(1), "d");
  EXPECT_THAT(stops_, IsEmpty());
}

TEST_F(DeliveryTest, AlternativesCarryTheirText) {
  Begin();
  GeneratedToken token = Token(TinyTokens("a")[0]);
  token.top = {{TinyTokens("b")[0], -1.0f, {}}, {TinyTokens("\n")[0], -2.0f, {}}};
  Post(TokenProduced{token, false});
  Finish();
  const auto deltas = sinks_[0]->All<TextDelta>(1);
  EXPECT_EQ(deltas.at(0).tokens.at(0).top.at(0).text, "b");
  EXPECT_EQ(deltas.at(0).tokens.at(0).top.at(1).text, "\n");
}

TEST_F(DeliveryTest, PlainEventsPassInOrderWithTheOthers) {
  Begin();
  ProduceText("a");
  Post(PlainEvent{{9, RefreshDone{}}});
  Finish();
  const std::vector<EngineEvent> events = sinks_[0]->events();
  ASSERT_EQ(events.size(), 2u);
  EXPECT_TRUE(std::holds_alternative<TextDelta>(events[0].body));
  EXPECT_EQ(events[1].work_id, 9u);
}

TEST_F(DeliveryTest, TextBecomesTokens) {
  const auto sink = std::make_shared<RecordingSink>();
  delivery_->Tokenize("ab c", 5, sink);
  EXPECT_EQ(*sink->Wait<Tokenized>(5).tokens, TinyTokens("ab c"));
}

TEST_F(DeliveryTest, TextThatIsNoTextIsRefused) {
  const auto sink = std::make_shared<RecordingSink>();
  delivery_->Tokenize("bad \xff", 5, sink);
  EXPECT_THAT(sink->Wait<Tokenized>(5).tokens, HasCode(absl::StatusCode::kInvalidArgument));
}

TEST_F(DeliveryTest, MessagesNeedAChatTemplate) {
  const auto sink = std::make_shared<RecordingSink>();
  delivery_->Tokenize(ChatInput{{{"user", "hi"}}}, 5, sink);
  EXPECT_THAT(sink->Wait<Tokenized>(5).tokens,
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("chat template")));
}

class SplitCharacterTest : public DeliveryTest {
 protected:
  SplitCharacterTest() : DeliveryTest(GoldenTokenizer("byte_level")) {}

  // A character that the tokenizer writes as several tokens.
  std::vector<TokenId> Rocket() {
    const std::vector<TokenId> tokens = tokenizer_->Encode("🚀").value();
    EXPECT_GT(tokens.size(), 1u);
    return tokens;
  }
};

TEST_F(SplitCharacterTest, ACharacterOfSeveralTokensComesWhole) {
  Begin();
  const std::vector<TokenId> tokens = Rocket();
  for (const TokenId token : tokens) Produce(token);
  End(FinishReason::kLength);
  Finish();
  const auto deltas = sinks_[0]->All<TextDelta>(1);
  ASSERT_EQ(deltas.size(), tokens.size());
  for (size_t i = 0; i + 1 < deltas.size(); ++i) EXPECT_EQ(deltas[i].text, "");
  EXPECT_EQ(deltas.back().text, "🚀");
}

TEST_F(SplitCharacterTest, ACharacterThatIsCutOffBecomesAReplacement) {
  Begin();
  Produce(Rocket()[0]);
  End(FinishReason::kLength);
  Finish();
  EXPECT_EQ(Text(), "\xef\xbf\xbd");
}

TEST_F(SplitCharacterTest, AStopMayBeSuchACharacter) {
  Begin({"🚀"});
  const std::vector<TokenId> tokens = Rocket();
  for (const TokenId token : tokens) Produce(token);
  End(FinishReason::kStop, /*stop_confirmed=*/true);
  Finish();
  EXPECT_EQ(Text(), "");
  EXPECT_THAT(stops_, ElementsAre(Stop{0, 1, static_cast<int32_t>(tokens.size())}));
}

}  // namespace
}  // namespace mayfly
