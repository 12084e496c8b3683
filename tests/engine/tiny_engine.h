#pragma once

// The real engine on a tiny model, and a client of one of its rows. A test drives rows from its own
// thread; every call that answers waits for the answer.

#include <memory>
#include <string>
#include <vector>

#include "engine/runtime/engine_loop.h"
#include "tests/engine/hooked_model.h"
#include "tests/engine/tiny_tokenizer.h"
#include "tests/support/fake_clock.h"
#include "tests/support/gate.h"
#include "tests/support/recording_sink.h"

namespace mayfly {

struct TinyEngineOptions {
  // A folder of tests/parity/data, or any other that starts with '/'.
  std::string model = "llama_tied";
  DType dtype = DType::kFloat32;
  int32_t rows = 2;
  int32_t window_tokens = 64;
  int32_t max_rank = 8;
  int32_t step_tokens = 16;
  bool keep_lower_layers = false;
  int32_t update_group = 4;
  bool deterministic = false;
};

class TinyEngine {
 public:
  explicit TinyEngine(const TinyEngineOptions& options = {});

  EngineLoop& loop() { return *loop_; }
  ModelHooks& hooks() { return model_->hooks(); }
  const EngineMetrics& metrics() const { return metrics_; }
  // The engine's memory; looked at while the engine does nothing with it.
  const KvPool& kv() const { return *kv_; }
  const AdapterPool& adapters() const { return *adapters_; }

  // Whether no byte of any session is left, in any row.
  bool IsZero() const;

 private:
  const Logger log_{LogLevel::kError, LogFormat::kText};
  FakeClock clock_;
  EngineMetrics metrics_;
  HookedModel* model_ = nullptr;
  const KvPool* kv_ = nullptr;
  const AdapterPool* adapters_ = nullptr;
  std::unique_ptr<EngineLoop> loop_;
};

// Hold the engine before its `call`-th forward pass from now, before the first one that has tokens
// of `row`, and before the first training pass, forward or backward. Called while nothing runs.
std::shared_ptr<Gate> HoldForward(TinyEngine& engine, int call);
std::shared_ptr<Gate> HoldForwardOf(TinyEngine& engine, int64_t row);
std::shared_ptr<Gate> HoldTrainForward(TinyEngine& engine);
std::shared_ptr<Gate> HoldTrainBackward(TinyEngine& engine);

// What a generation delivered.
struct Generated {
  std::vector<TokenId> ids;
  std::vector<float> logprobs;
  std::vector<uint64_t> versions;
  std::vector<std::vector<TokenAlternative>> top;
  std::string text;
  GenerationDone done;
};

// An adapter of `rank`, everything else as the tests like it.
AdapterSpec Spec(int32_t rank = 4, uint64_t seed = 1);
// Greedy, or at temperature 1, to the end of the count, whatever is drawn.
GenerateWork Greedy(int32_t max_tokens);
GenerateWork Sampled(int32_t max_tokens, uint64_t seed);

class TestRow {
 public:
  // Opens a row. `window_tokens` 0: all that there are.
  explicit TestRow(TinyEngine* engine, const AdapterSpec& spec = Spec(), int32_t window_tokens = 0);
  // Opens a row that goes on from where `other` is now, which stays as it is.
  TestRow(TinyEngine* engine, TestRow& other, const AdapterSpec& spec = Spec());

  RowHandle handle() const { return opened_.row; }
  const RowOpened& opened() const { return opened_; }
  RecordingSink& sink() { return *sink_; }
  // Every token that the row was given or has generated.
  const std::vector<TokenId>& stream() const { return stream_; }

  WorkId Submit(RowWork work);
  void Cancel(WorkId id) { engine_->loop().Cancel(handle(), id); }
  void Advance(WorkId id, uint64_t horizon) { engine_->loop().Advance(handle(), id, horizon); }

  Scored Prefill(std::vector<TokenId> tokens, bool score = true, bool score_base = false);
  Generated Generate(GenerateWork work);
  // The generation of that work, once it has ended.
  Generated WaitGenerated(WorkId id);
  UpdateDone Update(UpdateWork work);
  void Refresh(int32_t keep_tokens);
  std::shared_ptr<const RowState> Export(bool adapter_alone = false);
  // Keeps the newest tokens of all that this row has taken and delivered.
  RefreshWork Keeping(int32_t keep_tokens);
  // Checkpoint, roll-back or reset: the version after it.
  uint64_t Change(RowWork work);
  RowClosed Close();

  // Teaches the newest `tokens`, with the `context` before them.
  UpdateWork Lesson(int32_t tokens, int32_t context) const;

 private:
  TinyEngine* const engine_;
  const std::shared_ptr<RecordingSink> sink_;
  RowOpened opened_;
  WorkId last_id_ = 0;
  std::vector<TokenId> stream_;
  uint64_t prefilled_ = 0;
};

// What a session was told: its scores and logprobs, in order, and its own tokens.
struct Transcript {
  std::vector<float> scores;
  std::vector<TokenId> ids;

  void Add(const Scored& scored);
  void Add(const Generated& generated);
};
void ExpectSame(const Transcript& a, const Transcript& b);

// A prefill of `tokens` ended after `done` of them, neither at its start nor at its end, and `row`
// goes on as `same`, a row as it was before, does after these.
void ExpectGoesOnAfter(TestRow& row, TestRow& same, const std::vector<TokenId>& tokens,
                       int32_t done);

// `count` tokens of the tiny vocabulary, drawn uniformly.
std::vector<TokenId> RandomTokens(int32_t count, uint64_t seed);
// The same `period` tokens again and again.
std::vector<TokenId> RepeatedTokens(int32_t count, int32_t period, uint64_t seed);

// Not an approximation: NaN equals NaN, and 0 is not -0.
bool SameBits(const std::vector<float>& a, const std::vector<float>& b);
// The greatest difference; NaN where only one is.
double GreatestDifference(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace mayfly
