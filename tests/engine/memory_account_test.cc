// The byte account is kept: with every row full, generating and learning, the process holds what
// EngineInfo::memory says. On the real model, in a process of its own.

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/create_engine.h"
#include "gtest/gtest.h"
#include "tests/support/recording_sink.h"

namespace mayfly {
namespace {

constexpr char kModel[] = "models/smollm2-135m-instruct";
constexpr int32_t kRows = 4;
constexpr int32_t kWindow = 1024;
constexpr int32_t kRank = 16;
constexpr int32_t kUpdateTokens = 768;
constexpr double kTolerance = 0.05;

// A field of /proc/self/status, bytes.
uint64_t ProcessBytes(const std::string& field) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(field + ":")) return std::stoull(line.substr(field.size() + 1)) * 1024;
  }
  return 0;
}

// From here on VmHWM is the peak since now.
void ForgetPeak() { std::ofstream("/proc/self/clear_refs") << "5"; }

std::vector<TokenId> Text(int32_t count, int32_t seed) {
  std::vector<TokenId> tokens;
  for (int32_t i = 0; i < count; ++i) tokens.push_back(1000 + (i * 7919 + seed * 104729) % 40000);
  return tokens;
}

class Row {
 public:
  Row(Engine* engine, int32_t index) : engine_(engine), index_(index) {
    AdapterSpec spec;
    spec.rank = kRank;
    EXPECT_TRUE(engine->Open({.adapter = spec, .window_tokens = kWindow}, sink_).ok());
    handle_ = sink_->Wait<RowOpened>().row;
  }

  WorkId Submit(RowWork work) {
    engine_->Submit(handle_, ++last_id_, std::move(work));
    return last_id_;
  }
  template <typename Body>
  Body Wait(WorkId id) {
    return sink_->Wait<Body>(id);
  }

  // Fills the window but for `left` tokens.
  WorkId Read(int32_t left) {
    text_ = Text(kWindow - left, index_);
    return Submit(PrefillWork{text_, true, index_ == 0});
  }
  WorkId Write(int32_t tokens) {
    GenerateWork work;
    work.sampling.seed = static_cast<uint64_t>(index_);
    work.max_tokens = tokens;
    work.ignore_eos = true;
    work.horizon = static_cast<uint64_t>(-1);
    return Submit(std::move(work));
  }
  // Learns the newest `tokens` of what it read, beside what it writes.
  WorkId Learn(int32_t tokens, int32_t context, bool may_be_undone) {
    UpdateWork work;
    work.parallel = true;
    work.begin = text_.size() - static_cast<size_t>(tokens);
    work.tokens.assign(text_.end() - tokens, text_.end());
    work.weights.assign(work.tokens.size(), 1.0f);
    work.context.assign(text_.end() - tokens - context, text_.end() - tokens);
    work.measure_after = may_be_undone;
    work.grad_clip = 1.0;
    return Submit(std::move(work));
  }

 private:
  Engine* const engine_;
  const int32_t index_;
  const std::shared_ptr<RecordingSink> sink_ = std::make_shared<RecordingSink>();
  RowHandle handle_;
  WorkId last_id_ = 0;
  std::vector<TokenId> text_;
};

// The account, class by class.
std::string Lines(const MemoryAccount& account) {
  const std::pair<const char*, uint64_t> classes[] = {{"process", account.process},
                                                      {"weights", account.weights},
                                                      {"rows", account.rows},
                                                      {"base_row", account.base_row},
                                                      {"activation", account.activation},
                                                      {"logits", account.logits},
                                                      {"update", account.update}};
  std::string lines;
  for (const auto& [name, bytes] : classes) {
    lines += std::string(name) + " " + std::to_string(bytes >> 20) + " MiB\n";
  }
  return lines;
}

TEST(MemoryAccountTest, AtFullLoadTheProcessHoldsWhatTheAccountSays) {
  if (!std::filesystem::exists(std::string(kModel) + "/model.safetensors")) {
    GTEST_SKIP() << "no model in " << kModel;
  }
  EngineOptions options;
  options.model_dir = kModel;
  options.threads = 1;
  options.slots = kRows;
  options.max_rank = kRank;
  options.window_tokens = kWindow;
  options.step_tokens = 512;
  options.update_tokens = kUpdateTokens;
  options.max_update_tokens = kUpdateTokens;
  const SteadyClock clock;
  const Logger log(LogLevel::kError, LogFormat::kText);
  EngineMetrics metrics;
  const std::unique_ptr<Engine> engine = CreateEngine(options, &metrics, &log, &clock).value();
  const MemoryAccount account = engine->info().memory;
  const uint64_t loaded = ProcessBytes("VmRSS");
  ForgetPeak();

  std::vector<std::unique_ptr<Row>> rows;
  for (int32_t i = 0; i < kRows; ++i) rows.push_back(std::make_unique<Row>(engine.get(), i));
  std::vector<WorkId> reads, writes, lessons;
  for (const auto& row : rows) reads.push_back(row->Read(/*left=*/120));
  for (size_t i = 0; i < rows.size(); ++i) rows[i]->Wait<Scored>(reads[i]);
  // All learn in one pass while all write.
  for (const auto& row : rows) writes.push_back(row->Write(30));
  for (const auto& row : rows) lessons.push_back(row->Learn(kUpdateTokens / kRows, 128, false));
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(rows[i]->Wait<UpdateDone>(lessons[i]).outcome, UpdateOutcome::kApplied);
    rows[i]->Wait<GenerationDone>(writes[i]);
  }
  // The largest update that there is while the others write and are computed again.
  for (size_t i = 0; i < rows.size(); ++i) writes[i] = rows[i]->Write(30);
  const WorkId largest = rows[0]->Learn(kUpdateTokens, 128, true);
  const WorkId refresh = rows[1]->Submit(RefreshWork{});
  EXPECT_EQ(rows[0]->Wait<UpdateDone>(largest).outcome, UpdateOutcome::kApplied);
  rows[1]->Wait<RefreshDone>(refresh);
  for (size_t i = 0; i < rows.size(); ++i) rows[i]->Wait<GenerationDone>(writes[i]);

  const double peak = static_cast<double>(ProcessBytes("VmHWM"));
  const double total = static_cast<double>(account.total());
  RecordProperty("account_bytes", std::to_string(account.total()));
  RecordProperty("resident_bytes", std::to_string(static_cast<uint64_t>(peak)));
  EXPECT_NEAR(peak, total, kTolerance * total)
      << Lines(account) << "loaded it held " << (loaded >> 20) << " MiB";
}

}  // namespace
}  // namespace mayfly
