#include "tests/engine/tiny_engine.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <utility>

#include "tests/parity/tiny_model.h"

namespace mayfly {

TinyEngine::TinyEngine(const TinyEngineOptions& options) {
  const std::string dir =
      options.model.starts_with('/') ? options.model : kParityData + options.model;
  TinyModel tiny = LoadTinyModel(dir, options.dtype, options.window_tokens, options.max_rank,
                                 options.rows, options.keep_lower_layers);
  auto model = std::make_unique<HookedModel>(std::move(tiny.model));
  model_ = model.get();
  kv_ = tiny.kv.get();
  adapters_ = tiny.adapters.get();

  EngineParts parts;
  const ModelConfig& config = model->config();
  parts.info.model = {.name = options.model,
                      .architecture = config.architecture,
                      .parameters = model->parameters(),
                      .vocabulary = config.vocabulary,
                      .layers = config.layers,
                      .max_positions = config.max_positions,
                      .has_chat_template = false};
  parts.info.rows = options.rows;
  parts.info.window_tokens = options.window_tokens;
  parts.info.max_rank = options.max_rank;
  parts.info.row_bytes = tiny.layout->row_bytes();
  parts.info.eos_token_ids = config.eos_token_ids;
  parts.numerics = tiny.numerics;
  parts.info.deterministic = options.deterministic;
  EngineOptions shares;
  shares.threads = 1;
  shares.step_tokens = options.step_tokens;
  shares.update_group = options.update_group;
  shares.deterministic = options.deterministic;
  SetShares(shares, &parts);
  parts.tokenizer = TinyTokenizer();
  parts.layout = std::move(tiny.layout);
  parts.model = std::move(model);
  parts.kv = std::move(tiny.kv);
  parts.adapters = std::move(tiny.adapters);
  loop_ = std::make_unique<EngineLoop>(std::move(parts), &metrics_, &log_, &clock_);
}

bool TinyEngine::IsZero() const {
  for (int64_t row = 0; row < kv_->base_row(); ++row) {
    if (!kv_->IsZero(row) || !adapters_->IsZero(row)) return false;
  }
  return kv_->IsZero(kv_->base_row());
}

std::shared_ptr<Gate> HoldForward(TinyEngine& engine, int call) {
  const auto gate = std::make_shared<Gate>();
  engine.hooks().forward = [gate, left = call](const auto&) mutable {
    if (--left == 0) gate->Pass();
  };
  return gate;
}

std::shared_ptr<Gate> HoldForwardOf(TinyEngine& engine, int64_t row) {
  const auto gate = std::make_shared<Gate>();
  engine.hooks().forward = [gate, row](const std::vector<ForwardSegment>& segments) {
    for (const ForwardSegment& segment : segments) {
      if (segment.row == row) gate->Pass();
    }
  };
  return gate;
}

std::shared_ptr<Gate> HoldTrainForward(TinyEngine& engine) {
  const auto gate = std::make_shared<Gate>();
  engine.hooks().train_forward = [gate](const TrainingBatch&) { gate->Pass(); };
  return gate;
}

std::shared_ptr<Gate> HoldTrainBackward(TinyEngine& engine) {
  const auto gate = std::make_shared<Gate>();
  engine.hooks().train_backward = [gate](const TrainingBatch&) { gate->Pass(); };
  return gate;
}

AdapterSpec Spec(int32_t rank, uint64_t seed) {
  AdapterSpec spec;
  spec.rank = rank;
  spec.alpha = 2.0 * rank;
  spec.seed = seed;
  return spec;
}

GenerateWork Greedy(int32_t max_tokens) {
  GenerateWork work;
  work.sampling.temperature = 0;
  work.max_tokens = max_tokens;
  work.ignore_eos = true;
  work.horizon = static_cast<uint64_t>(-1);
  return work;
}

GenerateWork Sampled(int32_t max_tokens, uint64_t seed) {
  GenerateWork work = Greedy(max_tokens);
  work.sampling.temperature = 1;
  work.sampling.seed = seed;
  return work;
}

TestRow::TestRow(TinyEngine* engine, const AdapterSpec& spec, int32_t window_tokens)
    : engine_(engine), sink_(std::make_shared<RecordingSink>()) {
  const int32_t window = window_tokens > 0 ? window_tokens : engine->loop().info().window_tokens;
  EXPECT_TRUE(
      engine->loop().Open({.adapter = spec, .window_tokens = window, .tenant = {}}, sink_).ok());
  opened_ = sink_->Wait<RowOpened>();
}

TestRow::TestRow(TinyEngine* engine, TestRow& other, const AdapterSpec& spec)
    : engine_(engine),
      sink_(std::make_shared<RecordingSink>()),
      stream_(other.stream_),
      prefilled_(other.stream_.size()) {
  RowOptions options{.adapter = spec,
                     .window_tokens = engine->loop().info().window_tokens,
                     .restore = other.Export()};
  EXPECT_TRUE(engine->loop().Open(options, sink_).ok());
  opened_ = sink_->Wait<RowOpened>();
}

WorkId TestRow::Submit(RowWork work) {
  if (const auto* prefill = std::get_if<PrefillWork>(&work)) {
    stream_.insert(stream_.end(), prefill->tokens.begin(), prefill->tokens.end());
    prefilled_ += prefill->tokens.size();
  }
  engine_->loop().Submit(handle(), ++last_id_, std::move(work));
  return last_id_;
}

Scored TestRow::Prefill(std::vector<TokenId> tokens, bool score, bool score_base) {
  Scored all = sink_->Wait<Scored>(Submit(PrefillWork{std::move(tokens), score, score_base}));
  EXPECT_TRUE(all.done);
  return all;
}

Generated TestRow::Generate(GenerateWork work) { return WaitGenerated(Submit(std::move(work))); }

Generated TestRow::WaitGenerated(WorkId id) {
  Generated generated;
  generated.done = sink_->Wait<GenerationDone>(id);
  for (const TextDelta& delta : sink_->All<TextDelta>(id)) {
    generated.text += delta.text;
    for (const GeneratedToken& token : delta.tokens) {
      generated.ids.push_back(token.id);
      generated.logprobs.push_back(token.logprob);
      generated.versions.push_back(token.adapter_version);
      generated.top.push_back(token.top);
      stream_.push_back(token.id);
    }
  }
  return generated;
}

UpdateDone TestRow::Update(UpdateWork work) {
  return sink_->Wait<UpdateDone>(Submit(std::move(work)));
}

void TestRow::Refresh(int32_t keep_tokens) {
  sink_->Wait<RefreshDone>(Submit(Keeping(keep_tokens)));
}

RefreshWork TestRow::Keeping(int32_t keep_tokens) {
  uint64_t position = prefilled_;
  for (WorkId id = 1; id <= last_id_; ++id) {
    for (const TextDelta& delta : sink_->All<TextDelta>(id)) position += delta.tokens.size();
  }
  return {position - std::min<uint64_t>(position, static_cast<uint64_t>(keep_tokens))};
}

std::shared_ptr<const RowState> TestRow::Export(bool adapter_alone) {
  return sink_->Wait<RowExported>(Submit(ExportWork{adapter_alone})).state;
}

uint64_t TestRow::Change(RowWork work) {
  return sink_->Wait<AdapterChanged>(Submit(std::move(work))).adapter_version;
}

RowClosed TestRow::Close() {
  engine_->loop().Close(handle());
  return sink_->Wait<RowClosed>();
}

UpdateWork TestRow::Lesson(int32_t tokens, int32_t context) const {
  UpdateWork work;
  work.begin = stream_.size() - static_cast<uint64_t>(tokens);
  work.tokens.assign(stream_.end() - tokens, stream_.end());
  work.weights.assign(work.tokens.size(), 1.0f);
  work.context.assign(stream_.end() - tokens - context, stream_.end() - tokens);
  work.optimizer.learning_rate = 1e-2;
  work.grad_clip = 1.0;
  return work;
}

void Transcript::Add(const Scored& scored) {
  scores.insert(scores.end(), scored.logprobs.begin(), scored.logprobs.end());
  scores.insert(scores.end(), scored.base_logprobs.begin(), scored.base_logprobs.end());
}

void Transcript::Add(const Generated& generated) {
  ids.insert(ids.end(), generated.ids.begin(), generated.ids.end());
  scores.insert(scores.end(), generated.logprobs.begin(), generated.logprobs.end());
}

void ExpectSame(const Transcript& a, const Transcript& b) {
  EXPECT_EQ(a.ids, b.ids);
  EXPECT_TRUE(SameBits(a.scores, b.scores))
      << "differing by up to " << GreatestDifference(a.scores, b.scores);
}

void ExpectGoesOnAfter(TestRow& row, TestRow& same, const std::vector<TokenId>& tokens,
                       int32_t done) {
  ASSERT_GT(done, 0);
  ASSERT_LT(done, static_cast<int32_t>(tokens.size()));
  same.Prefill({tokens.begin(), tokens.begin() + done});
  EXPECT_LT(GreatestDifference(row.Prefill(RandomTokens(4, 2)).logprobs,
                               same.Prefill(RandomTokens(4, 2)).logprobs),
            1e-4);
}

std::vector<TokenId> RandomTokens(int32_t count, uint64_t seed) {
  std::vector<TokenId> tokens(static_cast<size_t>(count));
  for (size_t i = 0; i < tokens.size(); ++i) {
    tokens[i] = static_cast<TokenId>(UniformAt(seed, i) * kTinyVocabulary);
  }
  return tokens;
}

std::vector<TokenId> RepeatedTokens(int32_t count, int32_t period, uint64_t seed) {
  std::vector<TokenId> tokens = RandomTokens(period, seed);
  for (int32_t i = period; i < count; ++i)
    tokens.push_back(tokens[static_cast<size_t>(i - period)]);
  return tokens;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

double GreatestDifference(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double greatest = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    if (std::isnan(a[i]) && std::isnan(b[i])) continue;
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(difference <= greatest)) greatest = difference;
  }
  return greatest;
}

}  // namespace mayfly
