#pragma once

// The engine: one thread that owns every sequence, both pools and the active adapter versions. It
// drains its mailbox, lets the scheduler pick a step, runs it, and starts over; with nothing to do
// it waits. Updates leave as jobs for the trainer, come back through the mailbox, and take effect
// between two steps.

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <variant>
#include <vector>

#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mailbox.h"
#include "engine/device/thread_share.h"
#include "engine/engine.h"
#include "engine/metrics.h"
#include "engine/pool/adapter_pool.h"
#include "engine/pool/kv_pool.h"
#include "engine/pool/slot_allocator.h"
#include "engine/runtime/delivery.h"
#include "engine/runtime/latency_governor.h"
#include "engine/runtime/model_runner.h"
#include "engine/runtime/scheduler.h"
#include "engine/runtime/sequence.h"
#include "engine/train/trainer.h"

namespace mayfly {

// What the loop is made of; built by CreateEngine.
struct EngineParts {
  EngineInfo info;
  Numerics numerics;
  ThreadShareOptions threads;
  SchedulerOptions scheduler;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;  // null: the model has none
  std::unique_ptr<SlotLayout> layout;
  std::unique_ptr<CausalLm> model;
  std::unique_ptr<KvPool> kv;
  std::unique_ptr<AdapterPool> adapters;
};

// How threads and steps are shared out.
void SetShares(const EngineOptions& options, EngineParts* parts);

class EngineLoop final : public Engine {
 public:
  // `metrics`, `logger` and `clock` outlive the loop.
  EngineLoop(EngineParts parts, EngineMetrics* metrics, const Logger* logger, const Clock* clock);
  // Ends all work and frees every row.
  ~EngineLoop() override;

  const EngineInfo& info() const override { return parts_.info; }
  int32_t free_rows() const override { return free_rows_.load(std::memory_order_relaxed); }
  bool healthy() const override { return healthy_.load(std::memory_order_relaxed); }
  bool defers_learning() const override { return defers_learning_.load(std::memory_order_relaxed); }
  absl::Status Open(const RowOptions& options, std::shared_ptr<TokenSink> sink) override;
  void Submit(RowHandle row, WorkId id, RowWork work) override;
  void Tokenize(TextInput text, WorkId id, std::shared_ptr<TokenSink> sink) override;
  void Advance(RowHandle row, WorkId id, uint64_t horizon) override;
  void Cancel(RowHandle row, WorkId id) override;
  void Close(RowHandle row) override;

 private:
  struct OpenMessage {
    RowOptions options;
    std::shared_ptr<TokenSink> sink;
  };
  struct SubmitMessage {
    RowHandle row;
    QueuedWork work;
  };
  struct AdvanceMessage {
    RowHandle row;
    WorkId id;
    uint64_t horizon;
  };
  struct CancelMessage {
    RowHandle row;
    WorkId id;
  };
  struct CloseMessage {
    RowHandle row;
    TimePoint requested;
  };
  // A stop string was completed by the generation's token number `tokens`.
  struct StopMessage {
    RowHandle row;
    WorkId id;
    int32_t tokens;
  };
  using Message = std::variant<OpenMessage, SubmitMessage, AdvanceMessage, CancelMessage,
                               CloseMessage, StopMessage, UpdateResult>;

  void LoopMain();
  // Takes the messages and runs a step if there is one to run; false when there was none.
  bool Turn(std::deque<Message>* messages);
  void Handle(OpenMessage message);
  void Handle(SubmitMessage message);
  void Handle(AdvanceMessage message);
  void Handle(CancelMessage message);
  void Handle(CloseMessage message);
  void Handle(StopMessage message);
  void Handle(UpdateResult result);

  // Starts waiting work of idle rows.
  void StartWork(Sequence& sequence);
  void Start(Sequence& sequence, const QueuedWork& queued, PrefillWork& work);
  void Start(Sequence& sequence, const QueuedWork& queued, GenerateWork& work);
  void Start(Sequence& sequence, const QueuedWork& queued, RefreshWork& work);
  void Start(Sequence& sequence, const QueuedWork& queued, ScoreBaseWork& work);
  void Start(Sequence& sequence, const QueuedWork& queued, UpdateWork& work);
  void Start(Sequence& sequence, const QueuedWork& queued, CheckpointWork& work);
  void Start(Sequence& sequence, const QueuedWork& queued, RollBackWork& work);
  void Start(Sequence& sequence, const QueuedWork& queued, ResetWork& work);
  void Start(Sequence& sequence, const QueuedWork& queued, ExportWork& work);
  // Runs a change of the row's adapter and answers AdapterChanged, or WorkFailed where it throws.
  void ChangeAdapter(Sequence& sequence, WorkId id, bool new_version,
                     const std::function<void()>& change);

  // Updates.
  void BeginUpdates(const std::vector<int32_t>& rows);
  // Lets a finished update take effect once no piece of work of its row is under way.
  void LandUpdate(Sequence& sequence);
  // Ends the update in flight: at once if the trainer has not begun it, at its next layer if it
  // has.
  void CancelUpdate(Sequence& sequence);
  void EndUpdate(Sequence& sequence, UpdateDone done);
  void CountWaitingUpdates();
  void TakeServingView(const Sequence& sequence);

  // One step.
  StepDemand Demand();
  void AddRowDemand(Sequence& sequence, StepDemand* demand);
  void SetLatencyTarget();
  void RunStep(const StepPlan& plan);
  RunSlice MakeSlice(const StepSlice& slice);
  RunSlice FeedSlice(Sequence& sequence, int64_t tokens);
  void Draw(const StepPlan& plan, std::vector<RunOutput>& outputs,
            std::vector<GeneratedToken>* drawn);
  void Apply(const StepSlice& slice, const RunOutput& output, GeneratedToken drawn);
  void AddKeys(Sequence& sequence, int64_t tokens);
  void ApplyFeed(Sequence& sequence, int64_t tokens, const RunOutput& output);
  void ApplyToken(Sequence& sequence, GeneratedToken token);
  void ObserveStep(const StepPlan& plan, TimePoint begin);
  void FailStep(const StepPlan& plan, const absl::Status& status);
  void FailGeneration(Sequence& sequence, const absl::Status& status);
  void FailEngine(const absl::Status& status);

  // Feeds.
  int64_t RemainingFeed(const Sequence& sequence);
  bool ClaimBaseRow(const Sequence& sequence);
  void ZeroBaseRow();
  // The layers below the row's adapter, if it has any and their inputs are kept; otherwise 0.
  int32_t LowerLayers(const Sequence& sequence) const;
  void MoveLower(Sequence& sequence, int64_t dropped);
  void CopyLowerToBase(const Sequence& sequence);
  void FinishFeedIfDone(Sequence& sequence);
  void AbortFeed(Sequence& sequence, const absl::Status& status);

  // Generations.
  // Changes the logits. Any thread, while the sequence rests.
  static GeneratedToken Sample(const Sequence& sequence, RunOutput& output);
  void PauseAtHorizon(Sequence& sequence);
  void FinishGeneration(Sequence& sequence, FinishReason reason, bool stop_confirmed = false);

  // Rows.
  absl::Status FillRow(Sequence& sequence);
  void ZeroRow(Sequence& sequence);
  Sequence* Find(RowHandle row);
  void ReleaseIfDone(Sequence& sequence);
  void UpdateRowMetrics();
  void Emit(const Sequence& sequence, WorkId id, decltype(EngineEvent::body) body);
  void Deliver(const Sequence& sequence, WorkId id, decltype(DeliveryItem::body) body);

  // Constant after construction.
  EngineParts parts_;
  EngineMetrics* const metrics_;
  const Logger* const logger_;
  const Clock* const clock_;
  const ModelRunner runner_;

  std::atomic<int32_t> free_rows_;
  std::atomic<bool> healthy_{true};
  std::atomic<bool> defers_learning_{false};

  // Owned by the loop thread.
  Scheduler scheduler_;
  LatencyGovernor governor_;
  // When the last step ended, while steps follow each other.
  std::optional<TimePoint> last_step_;
  std::map<std::string, int32_t> tenants_;
  SlotAllocator slots_;
  std::map<int32_t, Sequence> sequences_;  // by row
  // Adapters in service, by row; null without one.
  std::vector<std::unique_ptr<AdapterView>> serving_;
  // Updates that have not begun, oldest first, and results that have not taken effect, by row.
  std::vector<UpdateJob> waiting_updates_;
  std::map<int32_t, UpdateResult> landed_updates_;
  // Rows that the trainer holds.
  int32_t training_ = 0;
  // Whose tokens the frozen base model's row holds, from which stream position, and how many.
  struct BaseRow {
    RowHandle owner;
    uint64_t start = 0;
    int64_t length = 0;
    // As Window's.
    int64_t lower_length = 0;
    int64_t written = 0;
    bool in_use = false;
  } base_row_;

  Mailbox<Message> mailbox_;
  Delivery delivery_;
  ThreadShare thread_share_;
  std::unique_ptr<Trainer> trainer_;
  std::thread thread_;
};

}  // namespace mayfly
