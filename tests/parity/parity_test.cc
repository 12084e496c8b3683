// Logits, gradients, optimizer steps and a whole stream against values that transformers, PEFT and
// torch computed (tests/parity/make_goldens.py says how).

#include <cmath>
#include <filesystem>

#include <ATen/ATen.h>

#include "engine/train/loss.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/parity/test_trainer.h"
#include "tests/parity/tiny_model.h"

namespace mayfly {
namespace {

// fp32 against fp32: different orders of summation.
constexpr double kLogitTolerance = 1e-4;
constexpr double kGradientTolerance = 1e-4;
// Ten steps of Adam divide by the root of small second moments, which magnifies those differences.
constexpr double kStepTolerance = 2e-3;

std::vector<TokenId> ToTokens(const at::Tensor& ids) {
  const at::Tensor host = ids.to(at::kLong).contiguous();
  return {host.const_data_ptr<int64_t>(), host.const_data_ptr<int64_t>() + host.numel()};
}

// Logits of a whole text in one forward pass on row 0.
at::Tensor Logits(const TinyModel& tiny, const at::Tensor& tokens, const AdapterView* adapter) {
  const at::Tensor hidden =
      tiny.model->Forward(tokens, {{0, 0, tokens.size(0), adapter}}, *tiny.kv);
  return tiny.model->Logits(hidden);
}

class LogitsTest : public testing::TestWithParam<const char*> {};

TEST_P(LogitsTest, EqualTransformers) {
  const c10::InferenceMode no_autograd;
  const std::string dir = std::string(kParityData) + GetParam();
  const Checkpoint golden = ReadTensors(dir + "/golden.safetensors");
  const at::Tensor ids = golden.Find("input_ids");
  const TinyModel tiny =
      LoadTinyModel(dir, DType::kFloat32, static_cast<int32_t>(ids.size(0)), /*max_rank=*/1);
  EXPECT_LT(RelativeError(Logits(tiny, ids.clone(), nullptr), golden.Find("logits")),
            kLogitTolerance);
}

TEST_P(LogitsTest, AreTheSameTokenByTokenAsAtOnce) {
  const c10::InferenceMode no_autograd;
  const std::string dir = std::string(kParityData) + GetParam();
  const Checkpoint golden = ReadTensors(dir + "/golden.safetensors");
  const at::Tensor ids = golden.Find("input_ids").clone();
  const TinyModel tiny =
      LoadTinyModel(dir, DType::kFloat32, static_cast<int32_t>(ids.size(0)), /*max_rank=*/1);
  at::Tensor logits;
  for (int64_t i = 0; i < ids.size(0); ++i) {
    logits = tiny.model->Logits(
        tiny.model->Forward(ids.narrow(0, i, 1), {{1, i, 1, nullptr}}, *tiny.kv));
  }
  EXPECT_LT(RelativeError(logits[0], golden.Find("logits")[-1]), kLogitTolerance);
}

INSTANTIATE_TEST_SUITE_P(Families, LogitsTest,
                         testing::Values("llama", "llama_tied", "llama_biases", "mistral", "qwen2",
                                         "qwen3", "config_form_5", "sharded", "file_bf16",
                                         "file_fp16"));
INSTANTIATE_TEST_SUITE_P(RopeScalings, LogitsTest,
                         testing::Values("rope_linear", "rope_dynamic", "rope_llama3", "rope_yarn",
                                         "rope_yarn_attention", "rope_yarn_mscale"));

constexpr int32_t kWindow = 256;

// One row that carries the stored adapter, and a trainer to learn with.
class AdapterTest : public testing::TestWithParam<const char*> {
 protected:
  AdapterTest()
      : dir_(std::string(kParityData) + GetParam()),
        tiny_(LoadTinyModel(dir_, DType::kFloat32, kWindow, /*max_rank=*/6)),
        trainer_(tiny_) {
    spec_.rank = 4;
    spec_.alpha = 8;
    tiny_.adapters->Initialize(0, spec_);
    masters_ = {tiny_.layout.get(), spec_, tiny_.adapters->State(0).master};
  }

  void LoadAdapter(const Checkpoint& tensors, const std::string& prefix) {
    SetMasters(tensors, prefix, masters_);
    tiny_.adapters->Publish(0, spec_);
    serving_ = tiny_.adapters->Serving(0, spec_);
  }

  // Computes the row's keys and values for all tokens but the newest, as serving leaves them.
  void Feed(const at::Tensor& tokens) {
    tiny_.model->Forward(tokens.narrow(0, 0, tokens.size(0) - 1),
                         {{0, 0, tokens.size(0) - 1, &serving_}}, *tiny_.kv);
  }

  // The update of tokens[context, end) with everything before as its context.
  UpdateJob MakeJob(const std::vector<TokenId>& tokens, size_t context, GradientScope scope) {
    UpdateJob job;
    job.row = {0, 1};
    job.spec = spec_;
    job.state = tiny_.adapters->State(0);
    job.work.gradient_scope = scope;
    job.work.context.assign(tokens.begin(), tokens.begin() + static_cast<ptrdiff_t>(context));
    job.work.tokens.assign(tokens.begin() + static_cast<ptrdiff_t>(context), tokens.end());
    job.work.weights.assign(job.work.tokens.size(), 1.0f);
    job.work.grad_clip = 1.0;
    job.row_begin = static_cast<int64_t>(context);
    return job;
  }

  void ExpectMasters(const Checkpoint& expected, const std::string& prefix, double tolerance) {
    ForEachMatrix(masters_, [&](const std::string& name, const at::Tensor& matrix) {
      EXPECT_LT(RelativeError(matrix, expected.Find(prefix + name)), tolerance) << prefix << name;
    });
  }

  const c10::InferenceMode no_autograd_;
  const std::string dir_;
  const TinyModel tiny_;
  TestTrainer trainer_;
  AdapterSpec spec_;
  AdapterView masters_;
  AdapterView serving_;
};

TEST_P(AdapterTest, LogitsEqualPeft) {
  const Checkpoint stored = ReadTensors(dir_ + "/adapter.safetensors");
  LoadAdapter(stored, "");
  EXPECT_LT(
      RelativeError(Logits(tiny_, stored.Find("tokens").clone(), &serving_), stored.Find("logits")),
      kLogitTolerance);
}

TEST_P(AdapterTest, EveryGradientEqualsPeftInBothScopes) {
  const Checkpoint stored = ReadTensors(dir_ + "/adapter.safetensors");
  const nlohmann::json numbers = ReadJson(dir_ + "/adapter.json");
  LoadAdapter(stored, "");
  const at::Tensor tokens = stored.Find("tokens").clone();
  const int64_t context = numbers["context_tokens"];
  Feed(tokens);
  for (const bool window : {true, false}) {
    for (const bool weighted : {false, true}) {
      const std::string name =
          std::string(window ? "window" : "chunk") + (weighted ? ".weighted" : "");
      // Inputs from `begin` on; the last `labels` hidden states predict the chunk.
      const int64_t begin = window ? 0 : context - 1;
      const int64_t labels = tokens.size(0) - context;
      TrainingBatch batch;
      batch.tokens = tokens.slice(0, begin, tokens.size(0) - 1);
      AdapterView gradients{tiny_.layout.get(), spec_, at::zeros_like(masters_.elements)};
      batch.segments = {{.tokens = batch.tokens.size(0),
                         .row_begin = begin,
                         .prefix = window ? nullptr : tiny_.kv.get(),
                         .adapter = &serving_,
                         .gradients = &gradients,
                         .dropout = {}}};
      TrainingTrace trace;
      const at::Tensor hidden = tiny_.model->TrainForward(batch, &trace);
      const at::Tensor weights =
          weighted ? stored.Find("weights").clone() : at::ones({labels}, at::kFloat);
      const LossResult loss =
          WeightedLoss(*tiny_.model, hidden.slice(0, hidden.size(0) - labels),
                       tokens.slice(0, context), weights, /*need_gradient=*/true);
      at::Tensor dhidden = at::zeros_like(hidden);
      dhidden.slice(0, hidden.size(0) - labels).copy_(loss.dhidden);
      ASSERT_TRUE(tiny_.model->TrainBackward(dhidden, batch, &trace));

      const nlohmann::json& expected = numbers[name];
      EXPECT_NEAR(loss.loss, expected["loss"].get<double>(), 1e-4) << name;
      ForEachMatrix(gradients, [&](const std::string& matrix, const at::Tensor& gradient) {
        const std::string key = name + "." + matrix + ".grad";
        EXPECT_LT(RelativeError(gradient, stored.Find(key)), kGradientTolerance) << key;
      });
    }
  }
}

TEST_P(AdapterTest, TenAdamWStepsEqualTorch) {
  const Checkpoint start = ReadTensors(dir_ + "/adapter.safetensors");
  const Checkpoint expected = ReadTensors(dir_ + "/optimizer.safetensors");
  const nlohmann::json numbers = ReadJson(dir_ + "/optimizer.json");
  const at::Tensor tokens = start.Find("tokens").clone();
  const size_t context = ReadJson(dir_ + "/adapter.json")["context_tokens"];
  for (const char* scope : {"window", "chunk"}) {
    for (const char* decay : {"wd0", "wd0.01"}) {
      const std::string run = std::string(scope) + "." + decay;
      tiny_.adapters->Initialize(0, spec_);
      LoadAdapter(start, "");
      Feed(tokens);
      UpdateJob job = MakeJob(ToTokens(tokens), context,
                              scope[0] == 'w' ? GradientScope::kWindow : GradientScope::kChunk);
      job.work.epochs = 10;
      job.work.optimizer.learning_rate = numbers["learning_rate"];
      job.work.optimizer.weight_decay = std::string(decay) == "wd0" ? 0 : 0.01;
      const UpdateResult result = trainer_.Run(job);
      ASSERT_EQ(result.done.outcome, UpdateOutcome::kApplied) << result.done.reason;
      EXPECT_EQ(result.steps, 10);
      const nlohmann::json& losses = numbers["runs"][run]["losses"];
      for (size_t step = 0; step < 10; ++step) {
        EXPECT_NEAR(result.done.losses[step], losses[step].get<double>(), 1e-3) << run << step;
      }
      ExpectMasters(expected, run + ".", kStepTolerance);
    }
  }
}

TEST_P(AdapterTest, AFourChunkPaperStreamEqualsTheReference) {
  const Checkpoint stored = ReadTensors(dir_ + "/trajectory.safetensors");
  const nlohmann::json numbers = ReadJson(dir_ + "/trajectory.json");
  const nlohmann::json& chunks = numbers["scopes"]["window"];
  const size_t chunk_tokens = numbers["chunk_tokens"], context_tokens = numbers["context_tokens"];
  const std::vector<TokenId> tokens = ToTokens(stored.Find("tokens"));
  LoadAdapter(stored, "initial.");
  int64_t steps = 0;
  for (size_t chunk = 0; chunk < chunks.size(); ++chunk) {
    const size_t begin = chunk * chunk_tokens;
    const size_t context = std::min(begin, context_tokens);
    UpdateJob job = MakeJob({tokens.begin() + static_cast<ptrdiff_t>(begin - context),
                             tokens.begin() + static_cast<ptrdiff_t>(begin + chunk_tokens)},
                            context, GradientScope::kWindow);
    job.steps = steps;
    job.work.epochs = numbers["epochs"];
    job.work.optimizer.learning_rate = chunks[chunk]["learning_rate"];
    const UpdateResult result = trainer_.Run(job);
    ASSERT_EQ(result.done.outcome, UpdateOutcome::kApplied) << result.done.reason;
    steps = result.steps;
    for (size_t epoch = 0; epoch < result.done.losses.size(); ++epoch) {
      EXPECT_NEAR(result.done.losses[epoch], chunks[chunk]["losses"][epoch].get<double>(), 1e-3);
      EXPECT_NEAR(result.done.gradient_norms[epoch],
                  chunks[chunk]["gradient_norms"][epoch].get<double>(), 1e-3);
    }
  }
  ExpectMasters(stored, "window.", kStepTolerance);
}

INSTANTIATE_TEST_SUITE_P(Models, AdapterTest, testing::Values("llama_tied", "qwen3"));

// Perplexity of the default model on a book excerpt, against transformers.
TEST(DefaultModelTest, PerplexityIsThatOfTransformers) {
  const c10::InferenceMode no_autograd;
  const std::string dir = "models/smollm2-135m-instruct";
  if (!std::filesystem::exists(dir)) GTEST_SKIP() << "no default model, run './dev setup'";
  const nlohmann::json golden = ReadJson(std::string(kParityData) + "smollm2/golden.json");
  const std::vector<int64_t> ids = golden["token_ids"];
  const at::Tensor tokens = at::tensor(ids, at::kLong);
  const int64_t scored = tokens.size(0) - 1;
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    const TinyModel model =
        LoadTinyModel(dir, dtype, static_cast<int32_t>(ids.size()), /*max_rank=*/1);
    const at::Tensor hidden =
        model.model->Forward(tokens.narrow(0, 0, scored), {{0, 0, scored, nullptr}}, *model.kv);
    double nll = 0;
    for (const float logprob : LabelLogprobs(*model.model, hidden, tokens.narrow(0, 1, scored))) {
      nll -= logprob;
    }
    const bool full = dtype == DType::kFloat32;
    const double expected = golden[full ? "nll_float32" : "nll_bfloat16"];
    const double perplexity = std::exp(nll / static_cast<double>(scored));
    const double reference = std::exp(expected / static_cast<double>(scored));
    RecordProperty(full ? "fp32" : "bf16", std::to_string(perplexity));
    EXPECT_NEAR(perplexity / reference, 1.0, full ? 1e-4 : 5e-3) << perplexity << " " << reference;
  }
}

}  // namespace
}  // namespace mayfly
