#pragma once

// An Engine without tensors that does one small thing each time a test calls Step, and checks that
// the session keeps its side of the contract: work fits the window, a generation stays below its
// horizon, an update learns what its row holds (its newest tokens, unless it runs beside). Owned by
// the test. Calls are thread-safe; events are delivered by whichever thread calls Step (or by one
// of its own after RunInBackground).
//
// A row runs one piece of work a step; what adds no tokens overtakes a generation that has begun.
// An update that runs beside takes `update_steps` of its row's steps, which do other work
// meanwhile.
//
// Its tokenizer gives every byte of a text the token with that number. Its model generates
// 'a' + position % 26. Both, and every score, can be replaced.

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "engine/base/mutex.h"
#include "engine/engine.h"

namespace mayfly {

class FakeEngine final : public Engine {
 public:
  static constexpr TokenId kEos = 256;

  struct Options {
    int32_t rows = 2;
    int32_t window_tokens = 64;
    int32_t max_rank = 64;
    int32_t layers = 4;
    // Tokens of prefill in one step.
    int32_t step_tokens = 5;
    bool has_chat_template = true;
    int32_t max_update_tokens = 0;
    bool deterministic = false;
    // Steps of its row that an update takes which runs beside.
    int32_t update_steps = 1;
  };

  // What the model says; called with the fake's lock held.
  struct Script {
    std::function<TokenId(uint64_t position)> next_token = [](uint64_t position) {
      return static_cast<TokenId>('a' + position % 26);
    };
    std::function<float(uint64_t position, uint64_t version)> logprob = [](uint64_t, uint64_t) {
      return -1.0f;
    };
    std::function<float(uint64_t position)> base_logprob = [](uint64_t) { return -1.5f; };
  };

  // One call of Submit.
  struct Submitted {
    RowHandle row;
    WorkId id = 0;
    RowWork work;
  };

  FakeEngine();
  explicit FakeEngine(const Options& options);
  ~FakeEngine() override;

  const EngineInfo& info() const override { return info_; }
  int32_t free_rows() const override;
  bool healthy() const override;
  bool defers_learning() const override { return defers_learning_; }
  absl::Status Open(const RowOptions& options, std::shared_ptr<TokenSink> sink) override;
  void Submit(RowHandle row, WorkId id, RowWork work) override;
  void Tokenize(TextInput text, WorkId id, std::shared_ptr<TokenSink> sink) override;
  void Advance(RowHandle row, WorkId id, uint64_t horizon) override;
  void Cancel(RowHandle row, WorkId id) override;
  void Close(RowHandle row) override;

  // Reads one call, or does one piece of one row's work, and delivers what came of it. False when
  // there was nothing to do.
  bool Step();
  void RunUntilIdle();
  // Steps on a thread of its own from now until StopBackground (or its end), so that nobody else
  // may.
  void RunInBackground();
  void StopBackground();

  // Before any work that it concerns.
  void SetScript(Script script);
  // The next piece of this kind of work fails with `status` (an update: with kFailed).
  template <typename Work>
  void FailNext(absl::Status status) {
    FailNextOf(RowWork(Work{}).index(), std::move(status));
  }
  // The next update answers with this instead of learning; outcome kApplied still learns.
  void SetNextUpdate(UpdateDone result);
  void SetDefersLearning(bool defers) { defers_learning_ = defers; }
  // No update ends while this is set.
  void HoldUpdates(bool hold);
  void SetUpdateSteps(int32_t steps);
  // The device is gone: every row ends, no row opens any more.
  void FailDevice(absl::Status status);

  // Everything submitted so far, in order.
  std::vector<Submitted> submitted() const;
  // All work of one kind, in order.
  template <typename Work>
  std::vector<Work> SubmittedOf() const {
    std::vector<Work> found;
    for (const Submitted& item : submitted()) {
      if (const Work* work = std::get_if<Work>(&item.work)) found.push_back(*work);
    }
    return found;
  }
  // What each Open asked for.
  std::vector<RowOptions> opened() const;
  // Every token that a row has taken since it was opened.
  std::vector<TokenId> stream(int32_t row) const;
  // Tokens that all rows have taken, those that are closed included.
  uint64_t tokens_taken() const;
  // How often a generation had to wait at its horizon.
  int pauses() const;
  // The most work besides a command's that one row had at once.
  int most_side_work() const;
  // How far a row grew while an update ran beside: tokens from that update's first on.
  uint64_t most_tokens_beside() const;
  // Tokens in the row's window.
  int32_t window_fill(int32_t row) const;

 private:
  struct Work {
    WorkId id = 0;
    RowWork work;
    int32_t tokens_done = 0;
    bool begun = false;
    bool paused = false;
    // The adapter that it sees.
    uint64_t version = 0;
    int32_t steps = 0;
    std::string text = {};  // of a generation
  };
  struct Row {
    bool open = false;
    uint64_t generation = 0;
    RowOptions options;
    std::shared_ptr<TokenSink> sink;
    std::vector<TokenId> stream;
    uint64_t window_start = 0;
    uint64_t version = 0;
    std::deque<Work> works;
  };
  // An event on its way to its sink.
  struct Delivery {
    std::shared_ptr<TokenSink> sink;
    EngineEvent event;
  };
  using Call = std::function<void()>;  // runs with mu_ held

  void FailNextOf(size_t kind, absl::Status status);
  void Post(Call call);
  bool RunOne() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  static void Clear(Row* row);
  void Take(Row* row, TokenId token) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Row* Find(RowHandle handle) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OpenRow(const RowOptions& options, const std::shared_ptr<TokenSink>& sink)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CancelWork(Row* row, WorkId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CloseRow(Row* row) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Queue(Row* row, WorkId id, RowWork work) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The update beside all other work; end() if there is none.
  std::deque<Work>::iterator FindUpdateBeside(Row* row) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The work whose turn it is.
  std::deque<Work>::iterator FindNext(Row* row) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool StepRow(Row* row) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool FailIfAsked(Row* row, Work* work) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Each does one step of its work and says whether the work is finished.
  bool Run(Row* row, Work* work, const PrefillWork& prefill) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Run(Row* row, Work* work, const GenerateWork& generate) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Run(Row* row, Work* work, const RefreshWork& refresh) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Run(Row* row, Work* work, const ScoreBaseWork& score) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Run(Row* row, Work* work, const UpdateWork& update) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Run(Row* row, Work* work, const CheckpointWork&) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Run(Row* row, Work* work, const RollBackWork&) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Run(Row* row, Work* work, const ResetWork&) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Run(Row* row, Work* work, const ExportWork&) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  float Logprob(uint64_t position, uint64_t version) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  float BaseLogprob(uint64_t position) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  template <typename Body>
  void Emit(const std::shared_ptr<TokenSink>& sink, WorkId id, Body body)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const EngineInfo info_;
  const int32_t step_tokens_;

  // Held by the one thread that steps, so that events stay in order.
  Mutex step_mu_;
  mutable Mutex mu_ ABSL_ACQUIRED_AFTER(step_mu_);
  CondVar called_;
  std::atomic<bool> defers_learning_{false};
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  bool updates_held_ ABSL_GUARDED_BY(mu_) = false;
  int32_t update_steps_ ABSL_GUARDED_BY(mu_);
  int most_side_work_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t most_tokens_beside_ ABSL_GUARDED_BY(mu_) = 0;
  bool healthy_ ABSL_GUARDED_BY(mu_) = true;
  Script script_ ABSL_GUARDED_BY(mu_);
  std::deque<Call> calls_ ABSL_GUARDED_BY(mu_);
  std::deque<Row> rows_ ABSL_GUARDED_BY(mu_);
  size_t next_row_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<Delivery> deliveries_ ABSL_GUARDED_BY(mu_);
  std::multimap<size_t, absl::Status> failures_ ABSL_GUARDED_BY(mu_);
  std::deque<UpdateDone> update_results_ ABSL_GUARDED_BY(mu_);
  std::vector<Submitted> submitted_ ABSL_GUARDED_BY(mu_);
  uint64_t tokens_taken_ ABSL_GUARDED_BY(mu_) = 0;
  int pauses_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<RowOptions> opened_ ABSL_GUARDED_BY(mu_);
  std::thread thread_;
};

}  // namespace mayfly
