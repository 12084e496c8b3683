// What a version number on a token is worth: rows write and read while updates, delayed at random,
// land beside them, and whatever is stamped with a version was computed with exactly that version's
// weights.

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/tiny_engine.h"
#include "tests/engine/training_delays.h"

namespace mayfly {
namespace {

using ::testing::SizeIs;

constexpr int kRows = 3;
constexpr int kRounds = 6;

size_t Fingerprint(const at::Tensor& weights) {
  return std::hash<std::string_view>()(
      {static_cast<const char*>(weights.const_data_ptr()), weights.nbytes()});
}

class VersionTest : public testing::TestWithParam<uint64_t> {
 protected:
  // Groups of one, so that the weights of a version follow from the lessons alone.
  VersionTest()
      : engine_({.rows = kRows + 1, .window_tokens = 256, .update_group = 1}),
        delays_(GetParam(), /*longest=*/6),
        dice_(GetParam() + 1000) {
    engine_.hooks().forward = [this](const auto& segments) {
      delays_.OnForward();
      for (const ForwardSegment& segment : segments) Begin(segment);
    };
    engine_.hooks().forward_done = [this](const auto& segments) {
      for (const ForwardSegment& segment : segments) End(segment);
    };
    engine_.hooks().train_forward = [this](const TrainingBatch&) { delays_.Hold(); };
    engine_.hooks().train_backward = [this](const TrainingBatch&) { delays_.Hold(); };
    for (int i = 0; i < kRows; ++i) {
      pupils_.push_back({std::make_unique<TestRow>(&engine_, SpecOf(i)), {}, 0});
    }
  }

  static AdapterSpec SpecOf(int index) { return Spec(2 << index, static_cast<uint64_t>(index)); }

  struct Pupil {
    std::unique_ptr<TestRow> row;
    std::vector<UpdateWork> lessons;
    WorkId lesson = 0;  // the newest
  };

  // ---- The loop's thread: the weights of every forward pass, by row and the position that its
  // last hidden state predicts.

  void Begin(const ForwardSegment& segment) {
    if (segment.adapter == nullptr) return;
    used_[segment.row][segment.row_begin + segment.tokens] = Fingerprint(segment.adapter->elements);
  }
  void End(const ForwardSegment& segment) {
    if (segment.adapter == nullptr) return;
    const size_t begun = used_[segment.row][segment.row_begin + segment.tokens];
    torn_ += begun != Fingerprint(segment.adapter->elements);
  }

  // ---- The test's thread

  bool Learns(const Pupil& pupil) const {
    return pupil.lesson != 0 && pupil.row->sink().All<UpdateDone>(pupil.lesson).empty();
  }
  // Learns what it read last, beside what follows. The whole window's scope needs no keys, which
  // were computed under whatever version was there.
  void Learn(Pupil& pupil) {
    UpdateWork lesson = pupil.row->Lesson(dice_.Roll(4, 12), dice_.Roll(0, 8));
    lesson.parallel = true;
    lesson.gradient_scope = GradientScope::kWindow;
    pupil.lessons.push_back(lesson);
    pupil.lesson = pupil.row->Submit(std::move(lesson));
  }

  void Round() {
    std::map<Pupil*, WorkId> reads, writes;
    for (Pupil& pupil : pupils_) {
      if (!Learns(pupil)) Learn(pupil);
      // More than a step holds, so that updates come back in the middle.
      reads[&pupil] = pupil.row->Submit(PrefillWork{
          RandomTokens(dice_.Roll(2, 22), static_cast<uint64_t>(dice_.Roll(0, 999))), true});
      writes[&pupil] = pupil.row->Submit(Greedy(dice_.Roll(1, 14)));
    }
    for (Pupil& pupil : pupils_) {
      EXPECT_TRUE(pupil.row->sink().Wait<Scored>(reads[&pupil]).done);
      pupil.row->WaitGenerated(writes[&pupil]);
    }
  }
  void LandAll() {
    delays_.Hurry(true);
    for (Pupil& pupil : pupils_) pupil.row->sink().Wait<UpdateDone>(pupil.lesson);
    delays_.Hurry(false);
  }

  void Live() {
    for (Pupil& pupil : pupils_) pupil.row->Prefill(RandomTokens(24, 1));
    for (int round = 0; round < kRounds; ++round) {
      Round();
      // Now and then nothing is in flight when a round begins, and twice at least: on a busy
      // machine hardly anything might land by itself.
      const bool surely = round == 1 || round == 3;
      if (surely || dice_.Roll(0, 2) == 0) LandAll();
    }
    delays_.Hurry(true);
    for (Pupil& pupil : pupils_) pupil.row->sink().Wait<UpdateDone>(pupil.lesson);
    // The loop is past its last forward pass once it answers what came later.
    for (Pupil& pupil : pupils_) pupil.row->Change(CheckpointWork{});
    engine_.hooks() = {};
  }

  // The weights of each version, learned by a row that did nothing else.
  std::vector<size_t> Published(int index) {
    TestRow twin(&engine_, SpecOf(index));
    const auto weights = [&] {
      const AdapterState state = engine_.adapters().State(twin.handle().row);
      EXPECT_TRUE(at::equal(state.serving, state.master)) << "what was learned is not served";
      return Fingerprint(state.serving);
    };
    std::vector<size_t> published = {weights()};
    for (UpdateWork lesson : pupils_[static_cast<size_t>(index)].lessons) {
      lesson.parallel = false;
      const uint64_t end = lesson.begin + lesson.tokens.size();
      const std::vector<TokenId>& stream = pupils_[static_cast<size_t>(index)].row->stream();
      twin.Prefill({stream.begin() + static_cast<ptrdiff_t>(twin.stream().size()),
                    stream.begin() + static_cast<ptrdiff_t>(end)},
                   /*score=*/false);
      EXPECT_EQ(twin.Update(std::move(lesson)).outcome, UpdateOutcome::kApplied);
      published.push_back(weights());
    }
    twin.Close();
    return published;
  }

  // Visits the tokens that a row scored or drew, in order: their stamp, the version that had been
  // reported before, and how many they are.
  template <typename VisitTokens>
  static void ForEachStamp(const std::vector<EngineEvent>& events, VisitTokens&& visit_tokens) {
    uint64_t version = 0;
    for (const EngineEvent& event : events) {
      if (const auto* update = std::get_if<UpdateDone>(&event.body)) {
        EXPECT_EQ(update->outcome, UpdateOutcome::kApplied) << update->reason;
        EXPECT_EQ(update->adapter_version, ++version);
      } else if (const auto* scored = std::get_if<Scored>(&event.body)) {
        visit_tokens(scored->adapter_version, version, scored->tokens_done);
      } else if (const auto* delta = std::get_if<TextDelta>(&event.body)) {
        for (const GeneratedToken& token : delta->tokens) {
          visit_tokens(token.adapter_version, version, 1);
        }
      }
    }
  }

  TinyEngine engine_;
  TrainingDelays delays_;
  Dice dice_;
  std::vector<Pupil> pupils_;
  std::unordered_map<int64_t, std::map<int64_t, size_t>> used_;
  int torn_ = 0;
};

TEST_P(VersionTest, WhatIsStampedWithAVersionWasComputedWithItsWeights) {
  Live();
  EXPECT_EQ(torn_, 0) << "weights changed under a forward pass";
  int changes_within = 0;
  for (int i = 0; i < kRows; ++i) {
    SCOPED_TRACE(testing::Message() << "row " << i);
    Pupil& pupil = pupils_[static_cast<size_t>(i)];
    const std::vector<size_t> published = Published(i);
    ASSERT_THAT(published, SizeIs(pupil.lessons.size() + 1));
    const std::map<int64_t, size_t>& used = used_.at(pupil.row->handle().row);
    int64_t position = 0;
    uint64_t last = 0;
    ForEachStamp(pupil.row->sink().events(), [&](uint64_t stamp, uint64_t landed, int64_t tokens) {
      EXPECT_EQ(stamp, landed) << "of the tokens from " << position;
      changes_within += stamp != last;
      last = stamp;
      // Every pass that predicted one of these tokens; the first has none before it.
      for (auto pass = used.lower_bound(std::max<int64_t>(position, 1));
           pass != used.end() && pass->first < position + tokens; ++pass) {
        EXPECT_EQ(pass->second, published.at(stamp)) << "at " << pass->first;
      }
      position += tokens;
    });
    EXPECT_EQ(position, static_cast<int64_t>(pupil.row->stream().size()));
    pupil.row->Close();
  }
  EXPECT_GT(changes_within, kRows) << "hardly anything was learned beside the streams";
}

INSTANTIATE_TEST_SUITE_P(Seeds, VersionTest, testing::Range<uint64_t>(1, 9));

}  // namespace
}  // namespace mayfly
