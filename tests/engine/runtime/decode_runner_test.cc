// Decode steps from fixed places against the same steps through CausalLm::Forward.

#include "engine/runtime/decode_runner.h"

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/device/adapter_rows.h"
#include "engine/runtime/model_runner.h"
#include "gtest/gtest.h"
#include "tests/parity/tiny_model.h"
#include "tests/support/test_device.h"

namespace mayfly {
namespace {

// fp32 against fp32: other shapes, other orders of summation.
constexpr double kTolerance = 1e-4;
constexpr int32_t kWindow = 32;
constexpr int32_t kRows = 8;
constexpr int32_t kMaxRank = 6;

Numerics DeviceNumerics() {
  Numerics numerics = NumericsFor(TestDevice(), DType::kFloat32);
  numerics.ops = TestDeviceOps();
  return numerics;
}

Numerics PlainNumerics(const DeviceOps* ops = nullptr) {
  Numerics numerics = NumericsFor(TestDevice(), DType::kFloat32);
  numerics.kernels = nullptr;
  numerics.ops = ops;
  return numerics;
}

// Records by keeping the work and replays by running it again, so that what a record reads is what
// its tensors hold then, as on a GPU.
class ReplayingOps final : public DeviceOps {
 public:
  void AddAdapterRows(const at::Tensor& x, const AdapterRows& adapters,
                      const std::vector<AdapterPlace>& places, const at::Tensor& y) const override {
    mayfly::AddAdapterRows(nullptr, x, adapters, places, y);
  }
  std::unique_ptr<DeviceGraph> NewGraph() const override {
    return std::make_unique<Graph>(&captures_);
  }
  int captures() const { return captures_; }

 private:
  class Graph final : public DeviceGraph {
   public:
    explicit Graph(int* captures) : captures_(captures) {}
    void Capture(const std::function<void()>& work) override {
      ++*captures_;
      work_ = work;
    }
    void Replay() override { work_(); }

   private:
    int* const captures_;
    std::function<void()> work_;
  };
  mutable int captures_ = 0;
};

// A model whose row r holds a prompt of its own and carries the adapter of row r. Rows serve from
// one or the other copy of their adapters.
class Rows {
 public:
  explicit Rows(const Numerics& numerics, const std::string& model = "qwen3")
      : tiny_(LoadTinyModel(kParityData + model, numerics, kWindow, kMaxRank, kRows)) {
    for (int64_t row = 0; row < kRows; ++row) {
      AdapterSpec spec;
      spec.rank = static_cast<int32_t>(row % kMaxRank) + 1;
      spec.alpha = 2 * spec.rank;
      spec.seed = static_cast<uint64_t>(row);
      specs_.push_back(spec);
      tiny_.adapters->Initialize(row, spec);
      for (int64_t flips = 0; flips <= row % 2; ++flips) Learn(row, 1);
      lengths_.push_back(3 + row % 4);
    }
    for (int64_t row = 0; row < kRows; ++row) {
      const int64_t length = lengths_[static_cast<size_t>(row)];
      const at::Tensor tokens = at::arange(length).add_(row).to(tiny_.numerics.device);
      tiny_.model->Forward(tokens, {{row, 0, length, Adapter(row)}}, *tiny_.kv);
    }
  }

  // Row 1 is the base model's.
  const AdapterView* Adapter(int64_t row) const {
    return row == 1 ? nullptr : &views_[static_cast<size_t>(row)];
  }

  // Another adapter, as an update leaves it: in the copy that was the shadow.
  void Learn(int64_t row, int version) {
    const AdapterSpec& spec = specs_[static_cast<size_t>(row)];
    const AdapterView masters{tiny_.layout.get(), spec, tiny_.adapters->State(row).master};
    ForEachMatrix(masters, [&](const std::string& name, at::Tensor matrix) {
      if (name.ends_with("lora_B")) matrix.fill_(0.02 * version);
    });
    const AdapterState state = tiny_.adapters->State(row);
    CopySpans(tiny_.layout->ActiveSpans(spec), state.master, state.shadow);
    tiny_.adapters->Flip(row);
    views_.resize(kRows);
    views_[static_cast<size_t>(row)] = tiny_.adapters->Serving(row, spec);
  }

  // One token for each of `rows`, appended to them.
  std::vector<DecodeToken> Next(const std::vector<int64_t>& rows) {
    std::vector<DecodeToken> tokens;
    for (const int64_t row : rows) {
      const int64_t position = lengths_[static_cast<size_t>(row)]++;
      tokens.push_back({(7 * row + 3 * position) % 50, row, position, Adapter(row)});
    }
    return tokens;
  }

  // Their logits by Forward, one row at a time.
  at::Tensor Forward(const std::vector<DecodeToken>& tokens) const {
    std::vector<at::Tensor> logits;
    for (const DecodeToken& one : tokens) {
      const at::Tensor token = at::full({1}, one.token, at::kLong).to(tiny_.numerics.device);
      logits.push_back(tiny_.model->Logits(
          tiny_.model->Forward(token, {{one.row, one.position, 1, one.adapter}}, *tiny_.kv)));
    }
    return at::cat(logits).to(at::kFloat).cpu();
  }

  DecodeRunner Runner() const { return DecodeRunner(tiny_.model.get(), tiny_.kv.get()); }
  const TinyModel& tiny() const { return tiny_; }

 private:
  const TinyModel tiny_;
  std::vector<AdapterSpec> specs_;
  std::vector<AdapterView> views_;
  std::vector<int64_t> lengths_;
};

class DecodeRunnerTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!MissingTestDevice().empty()) GTEST_SKIP() << MissingTestDevice();
  }
  const c10::InferenceMode no_autograd_;
};

// The same step by both; both append to rows of their own.
void ExpectSameStep(DecodeRunner& runner, Rows& rows, Rows& reference,
                    const std::vector<int64_t>& which) {
  const at::Tensor expected = reference.Forward(reference.Next(which));
  const std::vector<DecodeToken> tokens = rows.Next(which);
  ASSERT_TRUE(DecodeRunner::Takes(tokens));
  const DecodeOutput actual = runner.Run(tokens);
  EXPECT_LT(RelativeError(actual.logits, expected), kTolerance);
  EXPECT_LT(RelativeError(actual.log_sum_exp, expected.logsumexp(1)), kTolerance);
}

TEST_F(DecodeRunnerTest, StepsEqualThoseOfForward) {
  for (const char* const model : {"qwen3", "llama_tied", "qwen2"}) {
    Rows rows(DeviceNumerics(), model), reference(DeviceNumerics(), model);
    DecodeRunner runner = rows.Runner();
    for (int step = 0; step < 4; ++step) ExpectSameStep(runner, rows, reference, {0, 1, 4, 7});
  }
}

TEST_F(DecodeRunnerTest, PlainStepsEqualThoseOfTheDevicesKernels) {
  Rows rows(PlainNumerics()), reference(DeviceNumerics());
  DecodeRunner runner = rows.Runner();
  for (int step = 0; step < 4; ++step) ExpectSameStep(runner, rows, reference, {0, 1, 4, 7});
}

TEST_F(DecodeRunnerTest, RowsComeAndGoBetweenSteps) {
  Rows rows(DeviceNumerics()), reference(DeviceNumerics());
  DecodeRunner runner = rows.Runner();
  const std::vector<std::vector<int64_t>> steps = {
      {1}, {0, 1, 2}, {2}, {7, 0, 3, 1, 5}, {0, 1, 2}, {6, 5, 4, 3, 2, 1, 0}, {1}};
  for (const auto& which : steps) ExpectSameStep(runner, rows, reference, which);
}

TEST_F(DecodeRunnerTest, AnAdapterThatHasLearnedIsReadInTheNextStep) {
  Rows rows(DeviceNumerics()), reference(DeviceNumerics());
  DecodeRunner runner = rows.Runner();
  for (int version = 1; version <= 4; ++version) {
    rows.Learn(4, version);
    reference.Learn(4, version);
    ExpectSameStep(runner, rows, reference, {0, 4});
  }
}

TEST_F(DecodeRunnerTest, ARecordReadsTheCopyThatServesNow) {
  const ReplayingOps ops;
  Rows rows(PlainNumerics(&ops)), reference(PlainNumerics());
  DecodeRunner runner = rows.Runner();
  for (int version = 1; version <= 6; ++version) {
    for (const int64_t row : {int64_t{4}, int64_t{2 * (version % 2)}}) {
      rows.Learn(row, version);
      reference.Learn(row, version);
    }
    ExpectSameStep(runner, rows, reference, {0, 1, 2, 4});
  }
  EXPECT_EQ(ops.captures(), 1);
}

TEST_F(DecodeRunnerTest, ModelRunnerRecordsStepsOfOneTokenARowUnlessRowsRunApart) {
  const std::vector<TokenId> tokens = {3, 4};
  for (const bool separate : {false, true}) {
    const ReplayingOps ops;
    const Rows rows(PlainNumerics(&ops)), reference(PlainNumerics());
    const ModelRunner runner(rows.tiny().model.get(), rows.tiny().kv.get(), separate);
    const ModelRunner plain(reference.tiny().model.get(), reference.tiny().kv.get(), separate);
    const auto slice = [&](const Rows& of, int64_t row, size_t count) {
      return RunSlice{.row = row,
                      .row_begin = 8,
                      .tokens = std::span(tokens).first(count),
                      .adapter = of.Adapter(row),
                      .want_logits = true,
                      .targets = {}};
    };
    for (const size_t count : {size_t{1}, size_t{2}}) {
      const auto actual = runner.Run({slice(rows, 2, 1), slice(rows, 5, count)});
      const auto expected = plain.Run({slice(reference, 2, 1), slice(reference, 5, count)});
      for (size_t i = 0; i < 2; ++i) {
        EXPECT_LT(RelativeError(actual[i].logits, expected[i].logits), kTolerance);
        EXPECT_NEAR(actual[i].log_sum_exp, expected[i].log_sum_exp, kTolerance);
      }
    }
    EXPECT_EQ(ops.captures(), separate ? 0 : 1);
  }
}

TEST_F(DecodeRunnerTest, AStepThatKeepsInputsIsNotRecorded) {
  const c10::InferenceMode no_autograd;
  const ReplayingOps ops;
  const TinyModel tiny =
      LoadTinyModel(kParityData + std::string("llama_tied"), PlainNumerics(&ops), 64, 8, 2,
                    /*keep_lower_layers=*/true);
  const ModelRunner runner(tiny.model.get(), tiny.kv.get());
  const std::vector<TokenId> token = {3};
  runner.Run({{.row = 0, .tokens = token, .want_logits = true, .targets = {}, .first_layer = 1}});
  EXPECT_EQ(ops.captures(), 0);
  EXPECT_TRUE(tiny.kv->Inputs(0)[0].any().item<bool>());
}

TEST_F(DecodeRunnerTest, StepsAreRecordedWhereTheDeviceRecords) {
  Rows rows(DeviceNumerics());
  DecodeRunner runner = rows.Runner();
  for (int step = 0; step < 3; ++step) runner.Run(rows.Next({0, 1, 2}));
  EXPECT_EQ(runner.graphs().recorded(), TestDeviceOps() != nullptr ? 1 : 0);
  EXPECT_TRUE(runner.graphs().failure().ok()) << runner.graphs().failure();
}

TEST_F(DecodeRunnerTest, TooManyRowsAndAdaptersOfTwoPoolsAreNotTaken) {
  const Rows rows(DeviceNumerics()), others(DeviceNumerics());
  const DecodeToken mine{0, 0, 0, rows.Adapter(0)}, other{0, 0, 0, others.Adapter(0)};
  const DecodeToken base;
  EXPECT_TRUE(DecodeRunner::Takes({base, mine, base}));
  EXPECT_FALSE(DecodeRunner::Takes({base, mine, other}));
  EXPECT_FALSE(DecodeRunner::Takes({}));
  EXPECT_TRUE(DecodeRunner::Takes(std::vector<DecodeToken>(64, base)));
  EXPECT_FALSE(DecodeRunner::Takes(std::vector<DecodeToken>(65, base)));
}

// A step that also feeds: its decode rows are one group, its longer segments are not.
TEST_F(DecodeRunnerTest, ForwardGroupsOneTokenSegmentsWithoutChangingThem) {
  const Rows plain(PlainNumerics()), reference(DeviceNumerics());
  const auto forward = [](const Rows& rows) {
    std::vector<ForwardSegment> segments;
    for (const int64_t row : {0, 2, 1}) segments.push_back({row, 8, 1, rows.Adapter(row)});
    segments.push_back({3, 8, 5, rows.Adapter(3)});
    segments.push_back({4, 8, 1, rows.Adapter(4)});
    const at::Tensor tokens = at::arange(9).to(rows.tiny().numerics.device);
    return rows.tiny().model->Forward(tokens, segments, *rows.tiny().kv).cpu();
  };
  EXPECT_LT(RelativeError(forward(plain), forward(reference)), kTolerance);
}

}  // namespace
}  // namespace mayfly
