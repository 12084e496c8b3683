#pragma once

// One client's life: takes its commands in order, decides what its row computes and when it learns,
// and answers with events in its Outbox. Created by SessionManager; held by it, by the RPC and by
// the engine (as the row's TokenSink) until the row is free. Thread-safe; nothing blocks.
//
// Every entry does the same: under the mutex it takes in what happened and lets the row go on
// (Continue), which puts answers into the outbox and engine calls into a queue; then, with the
// mutex free, it makes those calls and wakes the reader.
//
// The row does at most one thing for the client's commands (`busy_`) and one for itself (`side_`: a
// chunk is learned, the window computed again). In cascaded mode one excludes the other; in
// parallel mode they run beside each other. Continue decides what is next, in this order: a
// complete chunk is learned, the running command goes on, the next command starts, a client that
// has finished sending is let go, a window that is due is computed again (in parallel mode that
// comes second).

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "engine/base/mutex.h"
#include "engine/engine.h"
#include "session/append_task.h"
#include "session/call_queue.h"
#include "session/export_task.h"
#include "session/generate_task.h"
#include "session/metrics.h"
#include "session/outbox.h"
#include "session/row_planner.h"
#include "session/snapshot.h"
#include "session/snapshot_vault.h"
#include "session/types.h"

namespace mayfly {

// What the manager says to a session that may open.
enum class Admission { kNow, kLater };

class Session final : public TokenSink, public std::enable_shared_from_this<Session> {
 public:
  // What all sessions share; outlives them.
  struct Environment {
    Engine* engine = nullptr;
    const Clock* clock = nullptr;
    const Logger* logger = nullptr;
    SessionMetrics* metrics = nullptr;
    SessionLimits limits;
    AdaptationWishes default_adaptation;
    SamplingWishes default_sampling;
    // Null: no snapshots.
    SnapshotVault* vault = nullptr;
    std::function<uint64_t()> random;
    // The manager's part. All but `release` are called with the session's mutex held and call
    // nothing back.
    // Asks whether this session may open: at once, or, if it may wait, once it is told so
    // (Admitted). One that may not wait is refused unless a row is free for it.
    std::function<absl::StatusOr<Admission>(const Session*, bool may_wait)> admit;
    // Until a row may come free; nothing where that is unknown.
    std::function<std::optional<double>()> seconds_to_row;
    // A place among the exports that clients may have under way; null when there is none.
    std::function<ExportPlace()> take_export_place;
    // Asks whether this session's tenant has tokens left.
    std::function<absl::Status(const Session*)> check_tokens;
    // The tenant's tokens that its row took.
    std::function<void(const Session*, uint64_t tokens)> spend_tokens;
    // The session is over and its row, if it `had_row`, free. Called once, last.
    std::function<void(const Session*, bool had_row)> release;
  };

  Session(const Environment* environment, std::string id, ClientIdentity client,
          std::function<void()> on_ready);

  // A command from the client, in the order in which they arrive. The first must be `open`.
  void Handle(uint64_t request_id, SessionCommand command);
  // The client sends no more: the queued commands finish, then the session ends with OK.
  void HalfClose();
  // Ends the session now. `status` is the stream's; the reason is counted. The first end wins.
  void End(CloseReason reason, absl::Status status);
  Outbox& outbox() { return outbox_; }

  // The session's turn to have a row has come.
  void Admitted();
  // Tells the client that the server goes away; a session that has not opened ends at once.
  void Drain(double deadline_unix_seconds);
  // Ends the session with UNAVAILABLE; where the server has a store, once the session lies in it
  // and the client has its token. What runs is cut short, but for an update, which is finished.
  void HandOver();
  // Ends the session if it has idled or lived beyond its limits, or its client reads too slowly.
  void Expire();
  // What it is now; nothing once it is over.
  std::optional<SessionInfo> Info() const;

  const std::string& id() const { return id_; }
  const ClientIdentity& client() const { return client_; }

  // TokenSink; the engine's delivery thread.
  void Offer(EngineEvent event) override;

 private:
  enum class State {
    kNew,        // no command yet
    kQueued,     // waits for its turn to have a row
    kReceiving,  // waits for its client's snapshot
    kLoading,    // waits for the vault
    kOpening,    // waits for its row
    kOpen,
    kClosing,  // waits for its row to be free
    kOver,
  };
  // A command that waits for its turn.
  struct Waiting {
    uint64_t request_id = 0;
    TimePoint arrived;
    SessionCommand command;
  };
  struct AdaptTask {
    AdaptCommand command;
    bool begun = false;
  };
  using Task = std::variant<AppendTask, GenerateTask, AdaptTask, ExportTask>;
  struct Running {
    uint64_t request_id = 0;
    TimePoint arrived;
    Task task;
    // Its work was cancelled; the answer follows when the row says so.
    bool ending = false;
    // Why, if not at the client's wish.
    absl::Status failure;
  };
  // kExport is the row's part of an export, kVault what follows. The last two are the row's own.
  enum class Purpose { kTokenize, kPrefill, kGenerate, kReset, kExport, kVault, kLearn, kRefresh };
  struct Busy {
    WorkId id = 0;
    Purpose purpose = Purpose::kPrefill;
  };
  struct Ending {
    CloseReason reason = CloseReason::kClosed;
    absl::Status status;
    uint64_t request_id = 0;
  };

  // ---- Commands -----------------------------------------------------------------------------

  void Receive(uint64_t request_id, SessionCommand command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Open(uint64_t request_id, const SessionCommand& command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status ResolveOpen(const OpenCommand& open) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool resumes() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return !resume_token_.empty() || snapshot_bytes_ > 0;
  }
  absl::Status CheckResume() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Gets the snapshot: from the store, or part by part from the client.
  void Load() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Restore(const SessionCommand& command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnLoaded(const absl::StatusOr<std::string>& plain);
  absl::Status Resume(absl::string_view plain) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void TakeRow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Its turn to have a row has come.
  void BeginOpening() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OpenRow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CheckAcceptable(uint64_t request_id, const SessionCommand& command) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  size_t outstanding() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return waiting_.size() + (running_ ? 1 : 0);
  }
  bool IsOutstanding(uint64_t request_id) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Cancel(uint64_t request_id, uint64_t target) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Ends or finishes what is under way, so that the session can be handed over.
  void CutShort() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CancelRunning() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CancelTask(AppendTask& task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CancelTask(GenerateTask& task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CancelTask(AdaptTask& task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CancelTask(ExportTask& task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AnswerCancelled(const Waiting& waiting, const std::string& why)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // ---- The main line ------------------------------------------------------------------------

  void Continue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Each does one thing; false when there is nothing to do until something else happens.
  bool GoOn() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool GoOnBeside() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool GoOnWithCommands() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool GoOnLeaving() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // No command runs or waits.
  bool idle() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return !running_ && waiting_.empty(); }
  bool Learn() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Refresh() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The row can take no token before something beside it is done.
  bool MustWait() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void StartNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<Task> MakeTask(Waiting waiting) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<Task> MakeAppend(AppendCommand command) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<Task> MakeGenerate(GenerateCommand command, TimePoint arrived) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool StepRunning() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Step(AppendTask& task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Step(GenerateTask& task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Step(AdaptTask& task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  bool Step(ExportTask& task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<Task> MakeExport(const ExportCommand& command) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status CheckExport(const ExportCommand& command) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status BeginAdapt(const AdaptCommand& command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ExtendGeneration() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Advance(GenerateTask& task, uint64_t horizon) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnRoom();

  // ---- Events of the engine -----------------------------------------------------------------

  void On(WorkId id, RowOpened& opened) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void On(WorkId id, RowRefused& refused) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void On(WorkId id, Tokenized& tokenized) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void On(WorkId id, Scored& scored) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void On(WorkId id, TextDelta& delta) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void On(WorkId id, GenerationPaused& paused) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void On(WorkId id, GenerationDone& done) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void On(WorkId id, RefreshDone& done) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void On(WorkId id, UpdateDone& done) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void On(WorkId id, AdapterChanged& changed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void On(WorkId id, RowExported& exported) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void On(WorkId id, WorkFailed& failed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void On(WorkId id, RowClosed& closed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void On(WorkId id, EngineFailed& failed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnPrefillFailed(const WorkFailed& failed) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnRefreshFailed(const absl::Status& status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Ends the running command because its row cannot go on.
  void EndRunning(WorkId id, absl::Status failure) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FailRunning(AppendTask& task, absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FailRunning(GenerateTask& task, absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FailRunning(AdaptTask& task, absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FailRunning(ExportTask& task, absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  Snapshot TakeSnapshot(std::shared_ptr<const RowState> row) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Gives the snapshot to the vault, to be stored or sealed.
  void PutIntoVault(std::shared_ptr<const RowState> row, bool store)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void OnVault(WorkId id, absl::StatusOr<std::string> result);
  void Leave(const absl::StatusOr<std::string>& token) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void RefuseRow(CloseReason reason, absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  // ---- Small change -------------------------------------------------------------------------

  // As operators see it; nothing for one that is over.
  static std::optional<SessionState> Shown(State state);
  static const char* CommandName(const Task& task);
  // The running task if it is of that kind.
  template <typename Kind>
  Kind* RunningTask() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The generation that this work belongs to.
  GenerateTask* GenerationOf(WorkId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  static bool Is(const std::optional<Busy>& work, Purpose purpose) {
    return work && work->purpose == purpose;
  }
  // Whether the row was doing this; then it no longer is.
  std::optional<Purpose> EndWork(WorkId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Submit(Purpose purpose, RowWork work) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CancelWork(WorkId id) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CloseRow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void TakeInput(const std::vector<HistoryToken>& tokens) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // The receipt of the chunk that was just finished with, if there is one.
  bool PutReceipt() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CountTrained(const UpdateDone& result) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CountFinished(FinishReason reason);
  void Error(uint64_t request_id, absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Each gives the running command its one answer.
  template <typename Body>
  void Answer(Body body) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Fail(absl::Status status) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AnswerGenerated(FinishReason reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FailEndingAppend(AppendTask& task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void ReportIfLeaving(AppendTask& task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  static absl::Status CancelledAppend(const AppendTask& task);

  // ---- The end ------------------------------------------------------------------------------

  void BeginEnd(Ending ending) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void AnswerAll(const std::string& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void FinishEnd(uint64_t freed_bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void CountLearning() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Whether the outbox is full and nothing was taken from it for longer than a client may take.
  bool ReadsTooSlowly() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  // Makes the engine calls and wakes the reader; without the mutex.
  void Flush();

  TimePoint Now() const { return environment_.clock->Now(); }

  const Environment& environment_;
  const std::string id_;
  const ClientIdentity client_;
  Outbox outbox_;
  CallQueue calls_;

  mutable Mutex mu_;
  State state_ ABSL_GUARDED_BY(mu_) = State::kNew;
  bool half_closed_ ABSL_GUARDED_BY(mu_) = false;
  std::optional<Ending> ending_ ABSL_GUARDED_BY(mu_);
  std::optional<double> drain_deadline_ ABSL_GUARDED_BY(mu_);
  // It is handed over: no command starts any more.
  bool leaving_ ABSL_GUARDED_BY(mu_) = false;
  const TimePoint created_;
  TimePoint last_activity_ ABSL_GUARDED_BY(mu_);
  // The full outbox as Expire first found it; nothing once something was taken.
  struct FullOutbox {
    uint64_t taken = 0;
    TimePoint since;
  };
  std::optional<FullOutbox> full_outbox_ ABSL_GUARDED_BY(mu_);

  // From `open` on.
  uint64_t open_request_id_ ABSL_GUARDED_BY(mu_) = 0;
  std::string label_ ABSL_GUARDED_BY(mu_);
  uint64_t seed_ ABSL_GUARDED_BY(mu_) = 0;
  int32_t window_tokens_ ABSL_GUARDED_BY(mu_) = 0;
  SamplingWishes sampling_wishes_ ABSL_GUARDED_BY(mu_);
  SamplingOptions sampling_ ABSL_GUARDED_BY(mu_);
  std::optional<RowPlanner> planner_ ABSL_GUARDED_BY(mu_);
  // What it resumes from, as `open` has named it: a token, or so many bytes that the client sends.
  std::string resume_token_ ABSL_GUARDED_BY(mu_);
  uint64_t snapshot_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  // The bytes that are there.
  std::string snapshot_ ABSL_GUARDED_BY(mu_);
  // Until the row is there: what it goes on from.
  std::shared_ptr<const RowState> restore_ ABSL_GUARDED_BY(mu_);

  // From RowOpened on.
  RowHandle row_ ABSL_GUARDED_BY(mu_);
  RowBytes reserved_ ABSL_GUARDED_BY(mu_);
  std::optional<TimePoint> opened_ ABSL_GUARDED_BY(mu_);
  std::deque<Waiting> waiting_ ABSL_GUARDED_BY(mu_);
  std::optional<Running> running_ ABSL_GUARDED_BY(mu_);
  std::optional<Busy> busy_ ABSL_GUARDED_BY(mu_);
  std::optional<Busy> side_ ABSL_GUARDED_BY(mu_);
  WorkId last_work_id_ ABSL_GUARDED_BY(mu_) = 0;
  // The work of the running generation.
  WorkId generation_id_ ABSL_GUARDED_BY(mu_) = 0;
  // The last refresh failed: the row takes no token until one has succeeded.
  bool window_broken_ ABSL_GUARDED_BY(mu_) = false;
  // And no command has started since: it is not tried again for nothing.
  bool refresh_failed_ ABSL_GUARDED_BY(mu_) = false;
  // What this session has put into the metrics.
  int32_t lag_counted_ ABSL_GUARDED_BY(mu_) = 0;
  bool learning_counted_ ABSL_GUARDED_BY(mu_) = false;

  // Totals of the stream.
  Usage usage_ ABSL_GUARDED_BY(mu_);
  uint64_t updates_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t updates_applied_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace mayfly
