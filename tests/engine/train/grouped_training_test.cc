// Rows that train in one pass learn what each would learn alone, and nothing of each other's.

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "tests/engine/tiny_engine.h"
#include "tests/parity/test_trainer.h"
#include "tests/parity/tiny_model.h"

namespace mayfly {
namespace {

constexpr int kUpdates = 3;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// What a row learns: rows differ in everything in which rows may differ.
struct Pupil {
  AdapterSpec spec;
  int32_t context = 0;
  int32_t chunk = 0;
  GradientScope scope = GradientScope::kChunk;
  double dropout = 0;
  AdamWOptions optimizer = {};
  double grad_clip = 0;
};

AdapterSpec Part(int32_t rank, TargetModules targets, int32_t first_layer) {
  AdapterSpec spec = Spec(rank, static_cast<uint64_t>(rank));
  spec.target_modules = targets;
  spec.first_layer = first_layer;
  return spec;
}

std::vector<Pupil> Pupils() {
  const AdamWOptions usual = {.learning_rate = 1e-3};
  const AdamWOptions decaying = {.learning_rate = 5e-4, .beta1 = 0.5, .weight_decay = 0.1};
  return {{Part(4, TargetModules::kAll, 0), 40, 17, GradientScope::kChunk, 0, usual, 1.0},
          {Part(8, TargetModules::kMlp, 1), 12, 33, GradientScope::kWindow, 0.2, decaying, 0},
          {Part(1, TargetModules::kAttention, 0), 9, 5, GradientScope::kChunk, 0.1, usual, 0.1},
          {Part(3, TargetModules::kAll, 1), 0, 24, GradientScope::kChunk, 0, decaying, 10}};
}

struct Model {
  const char* dir;
  DType dtype;
  // Relative to the greatest value. fp32: products of other sizes add in another order, and Adam
  // divides by the root of small second moments. bfloat16: an input that is rounded the other way
  // is off by 2^-8, and a gradient sums few of them.
  double tolerance;
};

class GroupedTrainingTest : public testing::TestWithParam<Model> {
 protected:
  GroupedTrainingTest()
      : pupils_(Pupils()),
        tiny_(LoadTinyModel(std::string(kParityData) + GetParam().dir, GetParam().dtype,
                            /*window_tokens=*/64, /*max_rank=*/8,
                            /*rows=*/static_cast<int32_t>(pupils_.size()))),
        trainer_(tiny_) {
    for (size_t row = 0; row < pupils_.size(); ++row) Refill(row);
  }

  static int64_t Index(size_t row) { return static_cast<int64_t>(row); }
  std::vector<TokenId> Text(size_t row) const {
    return RandomTokens(pupils_[row].context + pupils_[row].chunk, 10 + row);
  }

  // An adapter in which every weight counts, fresh moments, and the context's keys and values.
  void Refill(size_t row) {
    const AdapterSpec& spec = pupils_[row].spec;
    tiny_.adapters->Zero(Index(row), spec);
    tiny_.adapters->Initialize(Index(row), spec);
    const at::Tensor master = tiny_.adapters->State(Index(row)).master;
    uint64_t seed = 1000 * row;
    for (const Span& span : tiny_.layout->ActiveSpans(spec)) {
      for (int64_t i = 0; i < span.count; ++i) {
        master[span.offset + i] = 0.2 * (UniformAt(seed, static_cast<uint64_t>(i)) - 0.5);
      }
      ++seed;
    }
    tiny_.adapters->Publish(Index(row), spec);
    const AdapterView serving = tiny_.adapters->Serving(Index(row), spec);
    const int64_t context = pupils_[row].context;
    if (context == 0) return;
    const at::Tensor tokens = at::tensor(Text(row), at::kInt).to(at::kLong).slice(0, 0, context);
    tiny_.model->Forward(tokens, {{Index(row), 0, context, &serving}}, *tiny_.kv);
  }

  UpdateJob Job(size_t row, int64_t steps) const {
    const Pupil& pupil = pupils_[row];
    const std::vector<TokenId> text = Text(row);
    UpdateJob job;
    job.row = {static_cast<int32_t>(row), 1};
    job.id = row;
    job.work.begin = static_cast<uint64_t>(pupil.context);
    job.work.context.assign(text.begin(), text.begin() + pupil.context);
    job.work.tokens.assign(text.begin() + pupil.context, text.end());
    job.work.weights.assign(job.work.tokens.size(), 1.0f);
    job.work.gradient_scope = pupil.scope;
    job.work.dropout = pupil.dropout;
    job.work.optimizer = pupil.optimizer;
    job.work.grad_clip = pupil.grad_clip;
    job.spec = pupil.spec;
    job.state = tiny_.adapters->State(Index(row));
    job.steps = steps;
    job.row_begin = pupil.context;
    return job;
  }

  struct Learned {
    std::vector<double> losses, norms;
    at::Tensor master, moment1, moment2;
  };
  // Some updates of the rows together; what each has learned, in the rows' order.
  std::vector<Learned> Learn(const std::vector<size_t>& rows) {
    std::vector<Learned> all(rows.size());
    for (int64_t update = 0; update < kUpdates; ++update) {
      std::vector<UpdateJob> group;
      for (const size_t row : rows) group.push_back(Job(row, update));
      const std::vector<UpdateResult> results = trainer_.RunGroup(std::move(group));
      EXPECT_EQ(results.size(), rows.size());
      for (const UpdateResult& result : results) {
        const auto row = std::find(rows.begin(), rows.end(), result.id);
        Learned& learned = all.at(static_cast<size_t>(row - rows.begin()));
        learned.losses.push_back(result.done.losses.at(0));
        learned.norms.push_back(result.done.gradient_norms.at(0));
      }
    }
    for (size_t i = 0; i < rows.size(); ++i) {
      const AdapterState state = tiny_.adapters->State(Index(rows[i]));
      all[i].master = state.master.clone();
      all[i].moment1 = state.moment1.clone();
      all[i].moment2 = state.moment2.clone();
    }
    return all;
  }
  std::vector<Learned> LearnAfresh(const std::vector<size_t>& rows) {
    for (const size_t row : rows) Refill(row);
    return Learn(rows);
  }

  void ExpectEqualUpToRounding(const Learned& a, const Learned& b) const {
    const double tolerance = GetParam().tolerance;
    for (size_t i = 0; i < kUpdates; ++i) {
      EXPECT_NEAR(a.losses.at(i), b.losses.at(i), tolerance * b.losses.at(i));
      EXPECT_NEAR(a.norms.at(i), b.norms.at(i), tolerance * b.norms.at(i));
    }
    EXPECT_LT(RelativeError(a.master, b.master), tolerance);
    EXPECT_LT(RelativeError(a.moment1, b.moment1), tolerance);
    EXPECT_LT(RelativeError(a.moment2, b.moment2), 2 * tolerance);
  }
  static void ExpectSameBits(const Learned& a, const Learned& b) {
    EXPECT_EQ(a.losses, b.losses);
    EXPECT_EQ(a.norms, b.norms);
    EXPECT_TRUE(at::equal(a.master, b.master));
    EXPECT_TRUE(at::equal(a.moment1, b.moment1));
    EXPECT_TRUE(at::equal(a.moment2, b.moment2));
  }

  const c10::InferenceMode no_autograd_;
  std::vector<Pupil> pupils_;
  const TinyModel tiny_;
  TestTrainer trainer_;
};

TEST_P(GroupedTrainingTest, AGroupLearnsWhatEachRowLearnsAlone) {
  const std::vector<Learned> together = Learn({0, 1, 2, 3});
  for (size_t row = 0; row < pupils_.size(); ++row) {
    SCOPED_TRACE(testing::Message() << "row " << row);
    const Learned alone = LearnAfresh({row})[0];
    ExpectEqualUpToRounding(together[row], alone);
    // Every part of the adapter had a gradient to compare.
    for (const Span& span : tiny_.layout->ActiveSpans(pupils_[row].spec)) {
      EXPECT_TRUE(alone.moment1.narrow(0, span.offset, span.count).any().item<bool>());
    }
  }
}

TEST_P(GroupedTrainingTest, TheOrderOfTheRowsDoesNotMatter) {
  const std::vector<Learned> forward = Learn({0, 1, 2, 3});
  const std::vector<Learned> backward = LearnAfresh({3, 2, 1, 0});
  for (size_t row = 0; row < pupils_.size(); ++row) {
    ExpectEqualUpToRounding(backward[3 - row], forward[row]);
  }
}

// With the same shapes beside it, a row's bits depend on nothing that the other rows hold.
TEST_P(GroupedTrainingTest, WhatOneRowLearnsIsNotFeltByTheOthers) {
  const std::vector<Learned> before = Learn({0, 1, 2, 3});
  pupils_[1].optimizer.learning_rate = 1;
  pupils_[1].grad_clip = 1e-3;
  pupils_[1].dropout = 0.9;
  const std::vector<Learned> after = LearnAfresh({0, 1, 2, 3});
  EXPECT_FALSE(at::equal(after[1].master, before[1].master));
  for (const size_t row : {0u, 2u, 3u}) ExpectSameBits(after[row], before[row]);
}

TEST_P(GroupedTrainingTest, ARowThatIsNoNumberLeavesTheOthersAlone) {
  const std::vector<Learned> before = Learn({0, 1, 2, 3});
  for (size_t row = 0; row < pupils_.size(); ++row) Refill(row);
  const AdapterView master{tiny_.layout.get(), pupils_[1].spec, tiny_.adapters->State(1).master};
  master.A(1, Module::kGate).fill_(kNan);
  const std::vector<Learned> after = Learn({0, 1, 2, 3});
  EXPECT_TRUE(std::isnan(after[1].losses[0]));
  EXPECT_FALSE(after[1].moment1.any().item<bool>());
  for (const size_t row : {0u, 2u, 3u}) ExpectSameBits(after[row], before[row]);
}

TEST_P(GroupedTrainingTest, ARowWritesNothingButItsOwnAdapter) {
  Learn({0, 2});
  for (size_t row = 0; row < pupils_.size(); ++row) {
    SCOPED_TRACE(testing::Message() << "row " << row);
    const bool learned = row == 0 || row == 2;
    const AdapterState state = tiny_.adapters->State(Index(row));
    EXPECT_EQ(state.moment2.any().item<bool>(), learned);
    EXPECT_EQ(state.shadow.any().item<bool>(), learned);
    for (const at::Tensor& part : {state.master, state.moment1, state.moment2, state.shadow}) {
      at::Tensor rest = part.clone();
      ZeroSpans(tiny_.layout->ActiveSpans(pupils_[row].spec), rest);
      EXPECT_FALSE(rest.any().item<bool>());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Models, GroupedTrainingTest,
                         testing::Values(Model{"llama_tied", DType::kFloat32, 1e-4},
                                         Model{"qwen3", DType::kFloat32, 1e-4},
                                         Model{"qwen3", DType::kBFloat16, 5e-2}),
                         [](const auto& test) {
                           return std::string(test.param.dir) +
                                  (test.param.dtype == DType::kFloat32 ? "" : "_bf16");
                         });

}  // namespace
}  // namespace mayfly
