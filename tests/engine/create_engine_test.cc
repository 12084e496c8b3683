#include "engine/create_engine.h"

#include <filesystem>
#include <memory>
#include <string>

#include "engine/pool/memory_plan.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/safetensors_file.h"
#include "tests/engine/tiny_tokenizer.h"
#include "tests/parity/tiny_model.h"
#include "tests/support/fake_clock.h"
#include "tests/support/recording_sink.h"
#include "tests/support/status_matchers.h"
#include "tests/support/temp_dir.h"

namespace mayfly {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using Json = nlohmann::json;

// A whole model directory in a temporary folder, for the tests to break.
class CreateEngineTest : public testing::Test {
 protected:
  CreateEngineTest() {
    for (const char* name : {"config.json", "model.safetensors"}) {
      std::filesystem::copy_file(Source(name), dir_ / name);
    }
    dir_.Write("tokenizer.json", TinyTokenizerJson());
    options_.model_dir = dir_.path();
    options_.dtype = DType::kFloat32;
    options_.threads = 1;
    options_.slots = 2;
    options_.window_tokens = 32;
    options_.max_rank = 4;
  }

  static std::string Source(const std::string& name) {
    return std::string(kParityData) + "llama_tied/" + name;
  }
  absl::StatusOr<std::unique_ptr<Engine>> Create() {
    return CreateEngine(options_, &metrics_, &log_, &clock_);
  }
  void ExpectRefused(absl::StatusCode code, const std::string& what) {
    const auto engine = Create();
    EXPECT_THAT(engine, StatusIs(code, HasSubstr(what)));
  }

  template <typename Edit>
  void EditConfig(Edit&& edit) {
    Json config = Json::parse(ReadBytes(Source("config.json")));
    edit(config);
    dir_.Write("config.json", config.dump());
  }
  template <typename Edit>
  void EditWeights(Edit&& edit) {
    dir_.Write("model.safetensors", WithHeader(ReadBytes(Source("model.safetensors")), edit));
  }

  const TempDir dir_;
  EngineOptions options_;
  EngineMetrics metrics_;
  const Logger log_{LogLevel::kError, LogFormat::kText};
  const FakeClock clock_;
};

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
constexpr auto kNotFound = absl::StatusCode::kNotFound;

TEST_F(CreateEngineTest, AGoodDirectoryGivesAnEngineThatSaysWhatItIs) {
  const auto engine = Create();
  ASSERT_THAT(engine, IsOk());
  const EngineInfo& info = (*engine)->info();
  EXPECT_EQ(info.model.name, std::filesystem::path(dir_.path()).filename());
  EXPECT_EQ(info.model.architecture, "LlamaForCausalLM");
  EXPECT_EQ(info.model.vocabulary, 96);
  EXPECT_EQ(info.model.layers, 3);
  EXPECT_EQ(info.model.max_positions, 256);
  EXPECT_GT(info.model.parameters, 0u);
  EXPECT_FALSE(info.model.has_chat_template);
  EXPECT_EQ(info.device, "cpu");
  EXPECT_EQ(info.dtype, "fp32");
  EXPECT_EQ(info.rows, 2);
  EXPECT_EQ(info.window_tokens, 32);
  EXPECT_EQ(info.max_rank, 4);
  EXPECT_THAT(info.eos_token_ids, testing::ElementsAre(2));
  EXPECT_EQ((*engine)->free_rows(), 2);
  EXPECT_TRUE((*engine)->healthy());
}

TEST_F(CreateEngineTest, TheEngineRunsAStream) {
  const std::unique_ptr<Engine> engine = Create().value();
  const auto sink = std::make_shared<RecordingSink>();
  ASSERT_THAT(engine->Open({{.rank = 2}, 32}, sink), IsOk());
  const RowHandle row = sink->Wait<RowOpened>().row;
  engine->Tokenize("hello", 1, sink);
  engine->Submit(row, 2, PrefillWork{sink->Wait<Tokenized>(1).tokens.value(), true, true});
  EXPECT_EQ(sink->Wait<Scored>(2).tokens_done, 5);
  GenerateWork generate;
  generate.max_tokens = 3;
  generate.ignore_eos = true;
  generate.horizon = 32;
  engine->Submit(row, 3, generate);
  EXPECT_EQ(sink->Wait<GenerationDone>(3).tokens, 3);
  engine->Close(row);
  EXPECT_EQ(sink->Wait<RowClosed>().freed.total(), engine->info().row_bytes.total());
  EXPECT_EQ(engine->free_rows(), 2);
}

TEST_F(CreateEngineTest, OptionsAreCheckedFirst) {
  options_.max_rank = 0;
  ExpectRefused(kInvalid, "max_rank is 0");
}

TEST_F(CreateEngineTest, ADirectoryThatIsMissingIsNamed) {
  options_.model_dir = dir_ / "none";
  ExpectRefused(kNotFound, dir_ / "none/config.json");
}

TEST_F(CreateEngineTest, FilesThatAreMissingAreNamed) {
  for (const char* name : {"config.json", "tokenizer.json", "model.safetensors"}) {
    std::filesystem::rename(dir_ / name, dir_ / "away");
    ExpectRefused(kNotFound, name);
    std::filesystem::rename(dir_ / "away", dir_ / name);
  }
}

TEST_F(CreateEngineTest, AnUnknownArchitectureIsNamedBesideTheKnownOnes) {
  EditConfig([](Json& config) { config["architectures"] = {"GPT2LMHeadModel"}; });
  const auto engine = Create();
  EXPECT_THAT(engine, StatusIs(kInvalid,
                               AllOf(HasSubstr("GPT2LMHeadModel"), HasSubstr("LlamaForCausalLM"))));
}

TEST_F(CreateEngineTest, AConfigurationOfNonsenseIsRefused) {
  EditConfig([](Json& config) { config["num_hidden_layers"] = -3; });
  ExpectRefused(kInvalid, "num_hidden_layers");
  dir_.Write("config.json", "{");
  ExpectRefused(kInvalid, "config.json");
}

TEST_F(CreateEngineTest, TruncatedWeightsAreRefused) {
  const std::string whole = ReadBytes(Source("model.safetensors"));
  for (const size_t length :
       {size_t{0}, size_t{7}, size_t{100}, whole.size() / 2, whole.size() - 1}) {
    dir_.Write("model.safetensors", whole.substr(0, length));
    ExpectRefused(kInvalid, "model.safetensors");
  }
}

TEST_F(CreateEngineTest, AMissingTensorIsNamed) {
  EditWeights([](Json& header) { header.erase("model.layers.1.mlp.up_proj.weight"); });
  ExpectRefused(kInvalid, "model.layers.1.mlp.up_proj.weight");
}

TEST_F(CreateEngineTest, AnExtraTensorIsNamed) {
  EditWeights([](Json& header) {
    Json empty = header["model.norm.weight"];
    empty["shape"] = {0};
    empty["data_offsets"] = {0, 0};
    header["model.layers.0.self_attn.q_proj.bias"] = empty;
  });
  ExpectRefused(kInvalid, "model.layers.0.self_attn.q_proj.bias");
}

TEST_F(CreateEngineTest, ALayerMoreThanTheConfigurationSaysIsExtra) {
  EditConfig([](Json& config) { config["num_hidden_layers"] = 2; });
  ExpectRefused(kInvalid, "model.layers.2.");
}

TEST_F(CreateEngineTest, AMisshapenTensorIsNamedWithBothShapes) {
  EditConfig([](Json& config) { config["intermediate_size"] = 48; });
  const auto engine = Create();
  EXPECT_THAT(engine, StatusIs(kInvalid, AllOf(HasSubstr("model.layers.0.mlp.gate_proj.weight"),
                                               HasSubstr("[64, 32]"), HasSubstr("[48, 32]"))));
}

TEST_F(CreateEngineTest, AHeadThatIsMissingWithoutTiedEmbeddingsIsNamed) {
  EditConfig([](Json& config) { config["tie_word_embeddings"] = false; });
  ExpectRefused(kInvalid, "lm_head.weight");
}

TEST_F(CreateEngineTest, ATypeThatIsNoneOfOursIsNamedWithItsTensor) {
  for (const char* type : {"F64", "I32", "F8_E4M3"}) {
    EditWeights([&](Json& header) { header["model.norm.weight"]["dtype"] = type; });
    const auto engine = Create();
    EXPECT_THAT(engine, StatusIs(kInvalid, AllOf(HasSubstr("model.norm.weight"), HasSubstr(type))));
  }
}

TEST_F(CreateEngineTest, AWeightOfWholeNumbersIsNamed) {
  EditWeights([](Json& header) {
    header["model.norm.weight"]["dtype"] = "I64";
    header["model.norm.weight"]["shape"] = {16};  // the same bytes
  });
  ExpectRefused(kInvalid, "model.norm.weight");
}

TEST_F(CreateEngineTest, ATokenizerThatIsNoneIsRefused) {
  for (const char* text : {"", "{", "[]", R"({"model": {"type": "none"}})"}) {
    dir_.Write("tokenizer.json", text);
    EXPECT_THAT(Create(), HasCode(kInvalid)) << text;
  }
}

TEST_F(CreateEngineTest, ATokenizerOfAnotherModelIsRefusedWithBothVocabularies) {
  dir_.Write("tokenizer.json", TinyTokenizerJson(120));
  const auto engine = Create();
  EXPECT_THAT(engine, StatusIs(kInvalid, AllOf(HasSubstr("wrong tokenizer"), HasSubstr("120"),
                                               HasSubstr("96"))));
}

TEST_F(CreateEngineTest, AChatTemplateThatDoesNotParseIsRefused) {
  dir_.Write("chat_template.jinja", "{% for %}");
  EXPECT_FALSE(Create().ok());
}

TEST_F(CreateEngineTest, RowsFollowFromTheBudget) {
  const EngineInfo info = Create().value()->info();
  const uint64_t fixed = info.memory.total() - info.memory.rows;
  options_.slots = 0;
  options_.memory_budget_bytes = 5 * info.row_bytes.total() + info.row_bytes.total() / 2 + fixed;
  MemoryAccount without_rows = info.memory;
  without_rows.rows = 0;
  EXPECT_EQ(CountRows(options_, without_rows, info.row_bytes.total()).value(), 5);
}

TEST_F(CreateEngineTest, ABudgetTooSmallSaysHowManyBytesAreMissing) {
  const MemoryAccount account = {.process = 100, .weights = 50};
  options_.memory_budget_bytes = 150 + 2 * 1000;
  options_.slots = 2;
  EXPECT_EQ(CountRows(options_, account, 1000).value(), 2);
  options_.memory_budget_bytes -= 1;
  EXPECT_THAT(CountRows(options_, account, 1000),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("1 bytes are missing")));
  options_.slots = 0;
  options_.memory_budget_bytes = 150 + 1000 - 7;
  EXPECT_THAT(CountRows(options_, account, 1000),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("7 bytes are missing")));
}

TEST_F(CreateEngineTest, RowsThatNoMachineHoldsAreRefused) {
  options_.slots = 1 << 30;
  options_.window_tokens = 1 << 20;  // together more bytes than an address has bits for
  ExpectRefused(absl::StatusCode::kResourceExhausted, "allocating the rows");
}

}  // namespace
}  // namespace mayfly
