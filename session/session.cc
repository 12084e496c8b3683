#include "session/session.h"

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "session/command_checks.h"
#include "session/options_resolver.h"
#include "session/retry_after.h"

namespace mayfly {
namespace {

constexpr char kGoingAway[] = "the server is going away";
constexpr char kMoves[] = "the session goes on elsewhere";
constexpr char kNoVault[] = "this server seals no snapshots (--snapshot_key_file)";
// What a snapshot holds beside the row, and what sealing adds.
constexpr uint64_t kMaxSnapshotExtra = 16 << 20;
constexpr char kNoStore[] = "this server has no snapshot store (--snapshot_store)";
// An export that is read as fast as it comes takes about as long.
constexpr double kNextExportSeconds = 1;
// What a client's own copy is called.
constexpr char kSnapshotFile[] = "session.snapshot";

}  // namespace

Session::Session(const Environment* environment, std::string id, ClientIdentity client,
                 std::function<void()> on_ready)
    : environment_(*environment),
      id_(std::move(id)),
      client_(std::move(client)),
      outbox_(environment->limits.outbox_events, std::move(on_ready),
              &environment->metrics->outbox_events),
      created_(environment->clock->Now()),
      last_activity_(created_) {
  outbox_.OnRoom([this] { OnRoom(); });
}

// ---- Entries -------------------------------------------------------------------------------

void Session::Handle(uint64_t request_id, SessionCommand command) {
  {
    MutexLock lock(&mu_);
    last_activity_ = Now();
    Receive(request_id, std::move(command));
    Continue();
  }
  Flush();
}

void Session::HalfClose() {
  {
    MutexLock lock(&mu_);
    half_closed_ = true;
    if (state_ == State::kNew || state_ == State::kReceiving) {
      BeginEnd({CloseReason::kInvalid,
                absl::InvalidArgumentError("the stream ended before its session was open")});
    } else if (state_ == State::kQueued && idle()) {
      BeginEnd({CloseReason::kHalfClosed, absl::OkStatus()});
    }
    Continue();
  }
  Flush();
}

void Session::End(CloseReason reason, absl::Status status) {
  {
    MutexLock lock(&mu_);
    BeginEnd({reason, std::move(status)});
    Continue();
  }
  Flush();
}

void Session::Admitted() {
  {
    MutexLock lock(&mu_);
    if (state_ == State::kQueued) BeginOpening();
  }
  Flush();
}

void Session::Drain(double deadline_unix_seconds) {
  {
    MutexLock lock(&mu_);
    drain_deadline_ = deadline_unix_seconds;
    if (state_ == State::kQueued) environment_.metrics->rejected_draining.Increment();
    if (state_ < State::kOpening) {
      BeginEnd({CloseReason::kDrained, absl::UnavailableError("the server is draining")});
    } else if (state_ == State::kOpen) {
      outbox_.Put({0, DrainingEvent{deadline_unix_seconds, {}}});
    }
  }
  Flush();
}

void Session::HandOver() {
  {
    MutexLock lock(&mu_);
    const SnapshotVault* const vault = environment_.vault;
    if (state_ != State::kOpen || vault == nullptr || !vault->has_store()) {
      BeginEnd({CloseReason::kDrained, absl::UnavailableError(kGoingAway)});
    } else if (!std::exchange(leaving_, true)) {
      CutShort();
    }
    Continue();
  }
  Flush();
}

void Session::Expire() {
  {
    MutexLock lock(&mu_);
    const double max_age = environment_.limits.max_session_age_seconds;
    const double max_idle = environment_.limits.idle_timeout_seconds;
    if (max_age > 0 && Seconds(Now() - created_) > max_age) {
      BeginEnd({CloseReason::kAge,
                absl::AbortedError(absl::StrCat("the session is older than max_session_age, ",
                                                max_age, " seconds"))});
    } else if (ReadsTooSlowly()) {
      outbox_.Discard();
      BeginEnd({CloseReason::kSlowReader,
                absl::ResourceExhaustedError(
                    absl::StrCat("the client read nothing for longer than slow_reader_timeout, ",
                                 environment_.limits.slow_reader_timeout_seconds, " seconds"))});
    } else if (max_idle > 0 && !busy_ && !side_ && state_ != State::kQueued &&
               Seconds(Now() - last_activity_) > max_idle) {
      BeginEnd({CloseReason::kIdle,
                absl::AbortedError(absl::StrCat(
                    "the session was idle for longer than idle_timeout, ", max_idle, " seconds"))});
    }
    // Nothing else tells a session without work that the engine no longer defers learning.
    Continue();
  }
  Flush();
}

std::optional<SessionInfo> Session::Info() const {
  MutexLock lock(&mu_);
  const std::optional<SessionState> state = Shown(state_);
  if (!state) return std::nullopt;
  SessionInfo info{.id = id_,
                   .label = label_,
                   .client = client_,
                   .state = *state,
                   .window_tokens = window_tokens_,
                   .reserved = reserved_,
                   .age_seconds = Seconds(Now() - created_),
                   .idle_seconds = Seconds(Now() - last_activity_),
                   .usage = usage_,
                   .updates = updates_,
                   .updates_applied = updates_applied_,
                   .running_command = running_ ? CommandName(running_->task) : "",
                   .outstanding_commands = outstanding(),
                   .outbox_events = outbox_.depth()};
  if (!planner_) return info;
  info.adapter_version = planner_->adapter_version();
  info.window_position = planner_->window_position();
  info.stream_position = planner_->position();
  info.lag_chunks = planner_->lag_chunks();
  return info;
}

std::optional<SessionState> Session::Shown(State state) {
  switch (state) {
    case State::kNew: return SessionState::kNew;
    case State::kQueued:
    case State::kReceiving:
    case State::kLoading:
    case State::kOpening: return SessionState::kOpening;
    case State::kOpen: return SessionState::kOpen;
    case State::kClosing: return SessionState::kClosing;
    case State::kOver: break;
  }
  return std::nullopt;
}

const char* Session::CommandName(const Task& task) {
  struct Name {
    const char* operator()(const AppendTask&) const { return "append"; }
    const char* operator()(const GenerateTask&) const { return "generate"; }
    const char* operator()(const AdaptTask&) const { return "adapt"; }
    const char* operator()(const ExportTask&) const { return "export"; }
  };
  return std::visit(Name(), task);
}

void Session::Offer(EngineEvent event) {
  {
    MutexLock lock(&mu_);
    last_activity_ = Now();
    std::visit([&](auto& body) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { On(event.work_id, body); },
               event.body);
    Continue();
  }
  Flush();
}

void Session::OnRoom() {
  {
    MutexLock lock(&mu_);
    last_activity_ = Now();
    Continue();
  }
  Flush();
}

// A session may be released by one of its own calls, so it holds itself meanwhile.
void Session::Flush() {
  const auto self = shared_from_this();
  calls_.Run();
  outbox_.Notify();
}

// ---- Commands ------------------------------------------------------------------------------

void Session::Receive(uint64_t request_id, SessionCommand command) {
  if (state_ == State::kNew) return Open(request_id, command);
  if (state_ == State::kReceiving && !std::holds_alternative<CloseCommand>(command)) {
    absl::Status status = Restore(command);
    if (!status.ok()) BeginEnd({CloseReason::kInvalid, std::move(status)});
    return;
  }
  if (absl::Status status = CheckAcceptable(request_id, command); !status.ok()) {
    return Error(request_id, std::move(status));
  }
  if (const auto* cancel = std::get_if<CancelCommand>(&command)) {
    return Cancel(request_id, cancel->target);
  }
  if (std::holds_alternative<CloseCommand>(command)) {
    return BeginEnd({CloseReason::kClosed, absl::OkStatus(), request_id});
  }
  waiting_.push_back({request_id, Now(), std::move(command)});
  environment_.metrics->requests_waiting.Add(1);
}

absl::Status Session::CheckAcceptable(uint64_t request_id, const SessionCommand& command) const {
  if (leaving_) return absl::UnavailableError(kMoves);
  if (state_ == State::kClosing || state_ == State::kOver || half_closed_) {
    return absl::FailedPreconditionError("the session is closing and takes no more commands");
  }
  if (std::holds_alternative<OpenCommand>(command) ||
      std::holds_alternative<RestoreCommand>(command)) {
    return absl::FailedPreconditionError("the session is open already");
  }
  if (std::holds_alternative<CancelCommand>(command) ||
      std::holds_alternative<CloseCommand>(command)) {
    return absl::OkStatus();
  }
  if (IsOutstanding(request_id)) {
    return absl::AlreadyExistsError(
        absl::StrCat("request_id ", request_id, " belongs to a command that is not answered yet"));
  }
  const size_t limit = environment_.limits.max_outstanding_commands;
  if (outstanding() < limit) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat(
      outstanding(), " commands are outstanding, the limit max_outstanding_commands is ", limit));
}

bool Session::IsOutstanding(uint64_t request_id) const {
  if (running_ && running_->request_id == request_id) return true;
  const bool opens = state_ >= State::kQueued && state_ <= State::kOpening;
  if (opens && open_request_id_ == request_id) return true;
  return std::any_of(waiting_.begin(), waiting_.end(), [request_id](const Waiting& waiting) {
    return waiting.request_id == request_id;
  });
}

void Session::Open(uint64_t request_id, const SessionCommand& command) {
  if (const auto* invalid = std::get_if<InvalidCommand>(&command)) {
    return BeginEnd({CloseReason::kInvalid, invalid->status});
  }
  const auto* open = std::get_if<OpenCommand>(&command);
  if (open == nullptr) {
    return BeginEnd({CloseReason::kInvalid,
                     absl::InvalidArgumentError("the first command of a stream must be open")});
  }
  open_request_id_ = request_id;
  if (absl::Status status = CheckLabel(open->label); !status.ok()) {
    return BeginEnd({CloseReason::kInvalid, std::move(status)});
  }
  label_ = open->label;
  resume_token_ = open->resume_token;
  snapshot_bytes_ = open->snapshot_bytes;
  absl::Status resolved = resumes() ? CheckResume() : ResolveOpen(*open);
  if (!resolved.ok()) return BeginEnd({CloseReason::kInvalid, std::move(resolved)});
  TakeRow();
}

absl::Status Session::CheckResume() const {
  const SnapshotVault* const vault = environment_.vault;
  if (vault == nullptr) return absl::FailedPreconditionError(kNoVault);
  if (snapshot_bytes_ == 0) {
    return vault->has_store() ? absl::OkStatus() : absl::FailedPreconditionError(kNoStore);
  }
  const uint64_t limit = environment_.engine->info().row_bytes.total() + kMaxSnapshotExtra;
  if (snapshot_bytes_ <= limit) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("snapshot_bytes is ", snapshot_bytes_,
                                                 ", a row's snapshot has at most ", limit));
}

// What its client sends lies here from the first byte on, so it takes no part in the wait for rows.
void Session::TakeRow() {
  const absl::StatusOr<Admission> admission = environment_.admit(this, snapshot_bytes_ == 0);
  if (!admission.ok()) {
    const bool draining = absl::IsUnavailable(admission.status());
    return BeginEnd({draining ? CloseReason::kDrained : CloseReason::kNoRow, admission.status()});
  }
  state_ = State::kQueued;
  if (*admission == Admission::kNow) BeginOpening();
}

void Session::BeginOpening() {
  last_activity_ = Now();
  if (planner_) return OpenRow();
  Load();
}

void Session::Load() {
  if (snapshot_bytes_ > 0) {
    state_ = State::kReceiving;
    return;
  }
  state_ = State::kLoading;
  calls_.Add([self = shared_from_this(), token = resume_token_] {
    self->environment_.vault->Load(
        self->client_.tenant, token,
        [self](const absl::StatusOr<std::string>& plain) { self->OnLoaded(plain); });
  });
}

absl::Status Session::Restore(const SessionCommand& command) {
  const auto* part = std::get_if<RestoreCommand>(&command);
  if (part == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("open has announced a snapshot: its bytes ",
                                                   snapshot_.size(), "..", snapshot_bytes_,
                                                   " must follow in restore commands"));
  }
  if (part->data.size() > snapshot_bytes_ - snapshot_.size()) {
    return absl::InvalidArgumentError(absl::StrCat("the snapshot has more bytes than the ",
                                                   snapshot_bytes_, " that open has announced"));
  }
  snapshot_ += part->data;
  if (snapshot_.size() < snapshot_bytes_) return absl::OkStatus();
  state_ = State::kLoading;
  calls_.Add([self = shared_from_this(), sealed = std::exchange(snapshot_, {})]() mutable {
    self->environment_.vault->Unseal(
        self->client_.tenant, std::move(sealed),
        [self](const absl::StatusOr<std::string>& plain) { self->OnLoaded(plain); });
  });
  return absl::OkStatus();
}

void Session::OnLoaded(const absl::StatusOr<std::string>& plain) {
  {
    MutexLock lock(&mu_);
    if (state_ != State::kLoading) return;
    absl::Status status = plain.ok() ? Resume(*plain) : plain.status();
    if (status.ok()) {
      OpenRow();
    } else {
      BeginEnd({CloseReason::kInvalid, std::move(status)});
    }
  }
  Flush();
}

absl::Status Session::Resume(absl::string_view plain) {
  const EngineInfo& engine = environment_.engine->info();
  MAYFLY_ASSIGN_OR_RETURN(Snapshot snapshot, DecodeSnapshot(plain));
  MAYFLY_RETURN_IF_ERROR(CheckSnapshot(snapshot, engine));
  if (label_.empty()) label_ = std::move(snapshot.label);
  window_tokens_ = snapshot.window_tokens;
  seed_ = snapshot.seed;
  sampling_ = snapshot.sampling;
  sampling_wishes_ = ToWishes(sampling_);
  usage_ = snapshot.usage;
  updates_ = snapshot.updates;
  updates_applied_ = snapshot.updates_applied;
  window_broken_ = snapshot.window_broken;
  planner_.emplace(snapshot.planner, window_tokens_, engine.max_update_tokens);
  restore_ = std::move(snapshot.row);
  return absl::OkStatus();
}

void Session::OpenRow() {
  state_ = State::kOpening;
  const RowOptions options{
      .adapter = planner_->options().adapter,
      .window_tokens = window_tokens_,
      .tenant = client_.tenant,
      .target_inter_token_seconds = planner_->options().target_inter_token_ms / 1000,
      .restore = std::exchange(restore_, nullptr)};
  calls_.Add([self = shared_from_this(), options] {
    absl::Status status = self->environment_.engine->Open(options, self);
    if (status.ok()) return;
    MutexLock lock(&self->mu_);
    self->RefuseRow(CloseReason::kEngineFailed, std::move(status));
  });
}

absl::Status Session::ResolveOpen(const OpenCommand& open) {
  const EngineInfo& engine = environment_.engine->info();
  seed_ = open.seed ? *open.seed : environment_.random();
  sampling_wishes_ = open.sampling;
  MAYFLY_ASSIGN_OR_RETURN(window_tokens_, ResolveWindow(open.window_tokens, engine));
  MAYFLY_ASSIGN_OR_RETURN(const AdaptationOptions adaptation,
                          ResolveAdaptation(open.adaptation, environment_.default_adaptation,
                                            engine, window_tokens_, seed_));
  MAYFLY_ASSIGN_OR_RETURN(
      sampling_, ResolveSampling({}, sampling_wishes_, environment_.default_sampling, seed_));
  planner_.emplace(adaptation, window_tokens_, engine.max_update_tokens);
  return absl::OkStatus();
}

void Session::Cancel(uint64_t request_id, uint64_t target) {
  bool found = target == 0;
  for (size_t i = 0; i < waiting_.size();) {
    if (target != 0 && waiting_[i].request_id != target) {
      ++i;
      continue;
    }
    AnswerCancelled(waiting_[i], "cancelled before it began");
    waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
    found = true;
  }
  if (running_ && (target == 0 || running_->request_id == target)) {
    CancelRunning();
    found = true;
  }
  if (found) return;
  Error(request_id,
        absl::NotFoundError(absl::StrCat("no command with request_id ", target, " waits or runs")));
}

void Session::AnswerCancelled(const Waiting& waiting, const std::string& why) {
  environment_.metrics->requests_waiting.Add(-1);
  if (const auto* generate = std::get_if<GenerateCommand>(&waiting.command)) {
    CountFinished(FinishReason::kCancelled);
    const GenerateTask never_begun(*generate, {}, waiting.arrived);
    outbox_.Put({waiting.request_id, never_begun.Finish(FinishReason::kCancelled, Now())});
  } else {
    Error(waiting.request_id, absl::CancelledError(why));
  }
}

void Session::CutShort() {
  for (const Waiting& waiting : waiting_) AnswerCancelled(waiting, kMoves);
  waiting_.clear();
  if (RunningTask<AdaptTask>() == nullptr) {
    if (running_) CancelRunning();
  } else if (!Is(busy_, Purpose::kReset)) {
    // What is in hand is learned; what is not goes on being collected.
    if (!planner_->learning()) planner_->CancelUpdateNow();
    Fail(absl::CancelledError(kMoves));
  }
}

void Session::CancelRunning() {
  if (running_->ending) return;
  std::visit([&](auto& task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { CancelTask(task); },
             running_->task);
}

void Session::CancelTask(AppendTask& task) {
  if (!Is(busy_, Purpose::kPrefill)) return FailRunning(task, CancelledAppend(task));
  running_->ending = true;
  CancelWork(busy_->id);
}

void Session::CancelTask(GenerateTask& task) {
  if (!task.begun()) return AnswerGenerated(FinishReason::kCancelled);
  running_->ending = true;
  CancelWork(generation_id_);
}

// A reset or a change of options takes effect at once and is answered as ever.
void Session::CancelTask(AdaptTask& task) {
  if (!task.begun) return Fail(absl::CancelledError("cancelled before it began"));
  if (task.command.action != AdaptAction::kUpdateNow) return;
  FailRunning(task, absl::CancelledError("the update was cancelled"));
}

// What the row or the vault still answers finds nobody waiting.
void Session::CancelTask(ExportTask&) {
  if (Is(busy_, Purpose::kExport) || Is(busy_, Purpose::kVault)) busy_.reset();
  Fail(absl::CancelledError("the export was cancelled"));
}

// ---- The main line -------------------------------------------------------------------------

void Session::Continue() {
  while (GoOn()) {
  }
  ExtendGeneration();
  CountLearning();
}

bool Session::GoOn() {
  if (state_ != State::kOpen) return false;
  if (leaving_) return GoOnLeaving();
  // Without room the reader is behind: OnRoom goes on from here.
  if (outbox_.room() == 0) return false;
  return GoOnBeside() || GoOnWithCommands();
}

bool Session::GoOnBeside() {
  if (side_) return false;
  if (!planner_->parallel()) return !busy_ && Learn();
  // For a client that has left nothing is learned, and a reset must find nothing in hand.
  const bool holds_still = Is(busy_, Purpose::kReset) || Is(busy_, Purpose::kExport);
  if ((half_closed_ && idle()) || holds_still) return false;
  return Learn() || (!refresh_failed_ && Refresh());
}

bool Session::GoOnWithCommands() {
  if (busy_ || (side_ && !planner_->parallel())) return false;
  if (running_) return StepRunning();
  if (!waiting_.empty()) {
    StartNext();
    return true;
  }
  if (half_closed_) {
    BeginEnd({CloseReason::kHalfClosed, absl::OkStatus()});
    return false;
  }
  return !side_ && !refresh_failed_ && Refresh();
}

bool Session::GoOnLeaving() {
  if (busy_ || side_) return false;
  if (planner_->learning()) return Learn();
  if (running_) return StepRunning();
  Submit(Purpose::kExport, ExportWork{});
  return true;
}

bool Session::Learn() {
  if (PutReceipt()) return true;
  if (std::optional<RowWork> work =
          planner_->NextLearning(environment_.engine->defers_learning())) {
    Submit(Purpose::kLearn, *std::move(work));
    return true;
  }
  return PutReceipt();
}

bool Session::Refresh() {
  const std::optional<RefreshWork> work = planner_->NextRefresh();
  if (work) Submit(Purpose::kRefresh, *work);
  return work.has_value();
}

bool Session::MustWait() const {
  return window_broken_ || planner_->horizon() <= planner_->position();
}

void Session::StartNext() {
  Waiting waiting = std::move(waiting_.front());
  waiting_.pop_front();
  environment_.metrics->requests_waiting.Add(-1);
  environment_.metrics->queue_seconds.Observe(Seconds(Now() - waiting.arrived));
  refresh_failed_ = false;
  const uint64_t request_id = waiting.request_id;
  absl::StatusOr<Task> task = MakeTask(std::move(waiting));
  if (!task.ok()) return Error(request_id, task.status());
  running_ = Running{request_id, waiting.arrived, *std::move(task), false, absl::OkStatus()};
  environment_.metrics->requests_running.Add(1);
}

absl::StatusOr<Session::Task> Session::MakeTask(Waiting waiting) const {
  if (auto* append = std::get_if<AppendCommand>(&waiting.command)) {
    return MakeAppend(std::move(*append));
  }
  if (auto* generate = std::get_if<GenerateCommand>(&waiting.command)) {
    return MakeGenerate(std::move(*generate), waiting.arrived);
  }
  if (auto* adapt = std::get_if<AdaptCommand>(&waiting.command)) {
    return AdaptTask{std::move(*adapt)};
  }
  if (const auto* to_export = std::get_if<ExportCommand>(&waiting.command)) {
    return MakeExport(*to_export);
  }
  return std::get<InvalidCommand>(waiting.command).status;
}

absl::StatusOr<Session::Task> Session::MakeAppend(AppendCommand command) const {
  MAYFLY_RETURN_IF_ERROR(CheckAppend(command));
  std::vector<TokenId> tokens;
  if (const auto* ids = std::get_if<std::vector<uint32_t>>(&command.input)) {
    MAYFLY_RETURN_IF_ERROR(CheckAppendLength(ids->size(), environment_.limits));
    MAYFLY_ASSIGN_OR_RETURN(tokens,
                            CheckTokenIds(*ids, environment_.engine->info().model.vocabulary));
  }
  const bool tokenized = !tokens.empty();
  MAYFLY_RETURN_IF_ERROR(environment_.check_tokens(this));
  AppendTask task(std::move(command));
  if (tokenized) MAYFLY_RETURN_IF_ERROR(task.SetTokens(std::move(tokens)));
  return task;
}

absl::StatusOr<Session::Task> Session::MakeGenerate(GenerateCommand command,
                                                    TimePoint arrived) const {
  MAYFLY_RETURN_IF_ERROR(CheckGenerate(command, environment_.limits));
  MAYFLY_RETURN_IF_ERROR(
      CheckTokenIds(command.stop_token_ids, environment_.engine->info().model.vocabulary).status());
  MAYFLY_ASSIGN_OR_RETURN(
      const SamplingOptions sampling,
      ResolveSampling(command.sampling, sampling_wishes_, environment_.default_sampling, seed_));
  if (planner_->position() == 0) {
    return absl::FailedPreconditionError("the stream is empty: append something first");
  }
  MAYFLY_RETURN_IF_ERROR(environment_.check_tokens(this));
  return GenerateTask(std::move(command), sampling, arrived);
}

absl::StatusOr<Session::Task> Session::MakeExport(const ExportCommand& command) const {
  MAYFLY_RETURN_IF_ERROR(CheckExport(command));
  if (ExportPlace place = environment_.take_export_place()) {
    return ExportTask(command, std::move(place));
  }
  return WithRetryAfter(
      absl::ResourceExhaustedError(absl::StrCat("each export holds a copy of its row, and ",
                                                environment_.limits.max_exports,
                                                " are under way, the limit max_exports")),
      kNextExportSeconds);
}

absl::Status Session::CheckExport(const ExportCommand& command) const {
  if (command.format == ExportFormat::kPeft) {
    if (planner_->options().enabled()) return absl::OkStatus();
    return absl::FailedPreconditionError("the session has no adapter (preset off)");
  }
  if (environment_.vault == nullptr) return absl::FailedPreconditionError(kNoVault);
  if (command.store && !environment_.vault->has_store()) {
    return absl::FailedPreconditionError(kNoStore);
  }
  return absl::OkStatus();
}

bool Session::StepRunning() {
  if (running_->ending) return false;
  return std::visit([&](auto& task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return Step(task); },
                    running_->task);
}

bool Session::Step(AppendTask& task) {
  if (!task.has_tokens()) {
    busy_ = Busy{++last_work_id_, Purpose::kTokenize};
    calls_.Add([this, self = shared_from_this(), id = busy_->id,
                input = std::get<TextInput>(task.command().input)] {
      environment_.engine->Tokenize(input, id, self);
    });
    return true;
  }
  if (task.finished()) {  // all of it was in the stream before
    Answer(task.Report(true, planner_->window_position()));
    return true;
  }
  if (!planner_->parallel() && Refresh()) return true;
  if (MustWait()) return false;
  Submit(Purpose::kPrefill,
         task.NextPiece(planner_->horizon() - planner_->position(), planner_->wants_scores()));
  return true;
}

bool Session::Step(GenerateTask& task) {
  if (!planner_->parallel() && Refresh()) return true;
  if (MustWait()) return false;
  const uint64_t horizon =
      std::min<uint64_t>(planner_->horizon(), planner_->position() + outbox_.room());
  if (!task.begun()) {
    Submit(Purpose::kGenerate, task.Begin(horizon, Now()));
    generation_id_ = busy_->id;
    return true;
  }
  busy_ = Busy{generation_id_, Purpose::kGenerate};
  Advance(task, horizon);
  return true;
}

bool Session::Step(AdaptTask& task) {
  if (task.begun) {
    if (planner_->updating_now()) return false;
    Answer(AdaptedEvent{planner_->adapter_version(), planner_->paused(), planner_->options()});
    return true;
  }
  // It acts between two chunks.
  if (side_) return false;
  task.begun = true;
  refresh_failed_ = false;
  if (absl::Status status = BeginAdapt(task.command); !status.ok()) Fail(std::move(status));
  return true;
}

// Between two chunks too; then chunk by chunk, as the client takes them.
bool Session::Step(ExportTask& task) {
  if (task.has_files()) {
    ExportedEvent chunk = task.NextChunk();
    if (chunk.done) {
      Answer(std::move(chunk));
    } else {
      outbox_.Put({running_->request_id, std::move(chunk)});
    }
    return true;
  }
  if (side_ || planner_->learning() || task.begun()) return false;
  task.Begin();
  Submit(Purpose::kExport,
         ExportWork{.adapter_alone = task.command().format == ExportFormat::kPeft});
  return true;
}

// All of it or nothing.
absl::Status Session::BeginAdapt(const AdaptCommand& command) {
  RowPlanner changed = *planner_;
  MAYFLY_RETURN_IF_ERROR(changed.Change(command.options));
  switch (command.action) {
    case AdaptAction::kNone: break;
    case AdaptAction::kPause: changed.Pause(); break;
    case AdaptAction::kResume: changed.Resume(); break;
    case AdaptAction::kReset: Submit(Purpose::kReset, ResetWork{}); break;
    case AdaptAction::kUpdateNow: MAYFLY_RETURN_IF_ERROR(changed.UpdateNow()); break;
  }
  planner_.emplace(std::move(changed));
  return absl::OkStatus();
}

void Session::ExtendGeneration() {
  GenerateTask* task = RunningTask<GenerateTask>();
  if (task == nullptr || !Is(busy_, Purpose::kGenerate) || running_->ending) return;
  const auto horizon = task->Extension(planner_->position(), planner_->horizon(), outbox_.room());
  if (horizon) Advance(*task, *horizon);
}

void Session::Advance(GenerateTask& task, uint64_t horizon) {
  task.MoveHorizon(horizon);
  calls_.Add([engine = environment_.engine, row = row_, id = generation_id_, horizon] {
    engine->Advance(row, id, horizon);
  });
}

// ---- Events of the engine ------------------------------------------------------------------

void Session::On(WorkId, RowOpened& opened) {
  row_ = opened.row;
  if (state_ == State::kClosing) return CloseRow();
  state_ = State::kOpen;
  reserved_ = opened.bytes;
  opened_ = Now();
  environment_.metrics->opened.Increment();
  environment_.metrics->active.Add(1);
  if (resumes()) environment_.metrics->resumes.ok.Increment();
  environment_.logger->Info(
      "session_opened",
      {{"session", id_}, {"tenant", client_.tenant}, {"peer", client_.peer}, {"row", row_.row}});
  outbox_.Put({open_request_id_, OpenedEvent{.session_id = id_,
                                             .model = environment_.engine->info().model.name,
                                             .adaptation = planner_->options(),
                                             .sampling = sampling_,
                                             .window_tokens = window_tokens_,
                                             .seed = seed_,
                                             .reserved = opened.bytes,
                                             .resumed = resumes(),
                                             .stream_position = planner_->position(),
                                             .adapter_version = planner_->adapter_version()}});
  if (drain_deadline_) outbox_.Put({0, DrainingEvent{*drain_deadline_, {}}});
}

void Session::On(WorkId, RowRefused& refused) {
  const bool invalid = absl::IsInvalidArgument(refused.status);  // what it was to go on from
  if (invalid) return RefuseRow(CloseReason::kInvalid, std::move(refused.status));
  environment_.metrics->rejected_no_row.Increment();
  const std::optional<double> retry = environment_.seconds_to_row();
  if (retry) refused.status = WithRetryAfter(std::move(refused.status), *retry);
  RefuseRow(CloseReason::kNoRow, std::move(refused.status));
}

void Session::RefuseRow(CloseReason reason, absl::Status status) {
  BeginEnd({reason, std::move(status)});
  FinishEnd(0);
}

void Session::On(WorkId id, Tokenized& tokenized) {
  if (EndWork(id) != Purpose::kTokenize) return;
  if (!tokenized.tokens.ok()) return Fail(tokenized.tokens.status());
  absl::Status status = CheckAppendLength(tokenized.tokens->size(), environment_.limits);
  if (!status.ok()) return Fail(std::move(status));
  status = RunningTask<AppendTask>()->SetTokens(*std::move(tokenized.tokens));
  if (!status.ok()) Fail(std::move(status));
}

void Session::On(WorkId id, Scored& scored) {
  if (side_ && side_->id == id) {
    if (scored.done) side_.reset();
    return planner_->OnBaseScored(scored);
  }
  if (!busy_ || busy_->id != id) return;
  if (scored.done) busy_.reset();
  AppendTask& task = *RunningTask<AppendTask>();
  TakeInput(task.OnScored(scored));
  if (task.finished()) {
    Answer(task.Report(true, planner_->window_position()));
  } else if (running_->ending && scored.done) {
    FailEndingAppend(task);
  } else if (task.ReportIsDue()) {
    outbox_.Put({running_->request_id, task.Report(false, planner_->window_position())});
  }
}

void Session::On(WorkId id, TextDelta& delta) {
  GenerateTask* task = GenerationOf(id);
  if (task == nullptr) return;
  for (const GeneratedToken& token : delta.tokens) {
    planner_->Add({.id = token.id,
                   .origin = TokenOrigin::kOutput,
                   .adapter_version = token.adapter_version,
                   .logprob = token.logprob});
  }
  usage_.generated_tokens += delta.tokens.size();
  environment_.spend_tokens(this, delta.tokens.size());
  const bool training = environment_.metrics->learning.value() > 0;
  task->OnTokens(delta.tokens.size(), training, Now(), environment_.metrics);
  outbox_.Put({running_->request_id, DeltaEvent{std::move(delta)}});
}

void Session::On(WorkId id, GenerationPaused& paused) {
  GenerateTask* task = GenerationOf(id);
  // One that was allowed to go on in the meantime has.
  if (task == nullptr || paused.position < task->horizon()) return;
  EndWork(id);
}

void Session::On(WorkId id, GenerationDone& done) {
  if (GenerationOf(id) == nullptr) return;
  EndWork(id);
  if (!running_->failure.ok()) return Fail(running_->failure);
  AnswerGenerated(done.reason);
}

void Session::On(WorkId id, RefreshDone&) {
  if (EndWork(id) != Purpose::kRefresh) return;
  window_broken_ = false;
  planner_->OnRefreshDone();
}

void Session::On(WorkId id, UpdateDone& done) {
  if (EndWork(id) != Purpose::kLearn) return;
  planner_->OnUpdateDone(done);
  PutReceipt();
}

void Session::On(WorkId id, AdapterChanged& changed) {
  const std::optional<Purpose> purpose = EndWork(id);
  if (purpose == Purpose::kReset) return planner_->OnReset(changed);
  if (purpose != Purpose::kLearn) return;
  planner_->OnAdapterChanged(changed);
  PutReceipt();
}

void Session::On(WorkId id, RowExported& exported) {
  if (EndWork(id) != Purpose::kExport) return;
  if (leaving_) return PutIntoVault(std::move(exported.state), /*store=*/true);
  ExportTask& task = *RunningTask<ExportTask>();
  if (task.command().format == ExportFormat::kSnapshot) {
    return PutIntoVault(std::move(exported.state), task.command().store);
  }
  task.SetFiles(PeftFiles(std::move(exported.state), planner_->options().adapter,
                          environment_.engine->info().model));
}

void Session::PutIntoVault(std::shared_ptr<const RowState> row, bool store) {
  busy_ = Busy{++last_work_id_, Purpose::kVault};
  auto snapshot = std::make_shared<const Snapshot>(TakeSnapshot(std::move(row)));
  calls_.Add([self = shared_from_this(), id = busy_->id, store, snapshot = std::move(snapshot)] {
    SnapshotVault& vault = *self->environment_.vault;
    const auto plain = [snapshot] { return EncodeSnapshot(*snapshot); };
    const auto done = [self, id](absl::StatusOr<std::string> result) {
      self->OnVault(id, std::move(result));
    };
    if (store) {
      vault.Save(self->client_.tenant, plain, done);
    } else {
      vault.Seal(self->client_.tenant, plain, done);
    }
  });
}

Snapshot Session::TakeSnapshot(std::shared_ptr<const RowState> row) const {
  const EngineInfo& engine = environment_.engine->info();
  return {.model_fingerprint = engine.model.fingerprint,
          .dtype = engine.dtype,
          .label = label_,
          .window_tokens = window_tokens_,
          .seed = seed_,
          .sampling = sampling_,
          .usage = usage_,
          .updates = updates_,
          .updates_applied = updates_applied_,
          .window_broken = window_broken_,
          .planner = planner_->Save(),
          .row = std::move(row)};
}

void Session::OnVault(WorkId id, absl::StatusOr<std::string> result) {
  {
    MutexLock lock(&mu_);
    if (EndWork(id) != Purpose::kVault) return;
    last_activity_ = Now();
    if (leaving_) {
      Leave(result);
    } else if (!result.ok()) {
      Fail(result.status());
    } else if (ExportTask& task = *RunningTask<ExportTask>(); task.command().store) {
      ExportedEvent stored;
      stored.resume_token = *std::move(result);
      stored.done = true;
      Answer(std::move(stored));
    } else {
      task.SetFiles({ExportFile(kSnapshotFile, *std::move(result))});
    }
    Continue();
  }
  Flush();
}

void Session::Leave(const absl::StatusOr<std::string>& token) {
  SessionMetrics::Attempts& hand_overs = environment_.metrics->hand_overs;
  if (token.ok()) {
    hand_overs.ok.Increment();
    outbox_.Put({0, DrainingEvent{drain_deadline_.value_or(0), *token}});
  } else {
    hand_overs.failed.Increment();
    environment_.logger->Error(
        "hand_over_failed", {{"session", id_}, {"error", std::string(token.status().message())}});
  }
  BeginEnd({CloseReason::kDrained, absl::UnavailableError(kGoingAway)});
}

void Session::On(WorkId id, WorkFailed& failed) {
  if (GenerationOf(id) != nullptr) {
    EndWork(id);
    return Fail(std::move(failed.status));
  }
  const std::optional<Purpose> purpose = EndWork(id);
  if (purpose == Purpose::kPrefill) OnPrefillFailed(failed);
  if (purpose == Purpose::kRefresh) OnRefreshFailed(failed.status);
  if (purpose == Purpose::kReset) Fail(std::move(failed.status));
  if (purpose == Purpose::kExport && leaving_) return Leave(failed.status);
  if (purpose == Purpose::kExport) Fail(std::move(failed.status));
  if (purpose == Purpose::kLearn) planner_->OnLearningFailed(failed.status);
}

void Session::OnPrefillFailed(const WorkFailed& failed) {
  AppendTask& task = *RunningTask<AppendTask>();
  TakeInput(task.OnFailed(failed, planner_->adapter_version()));
  if (running_->ending) return FailEndingAppend(task);
  Fail(absl::Status(failed.status.code(),
                    absl::StrCat(failed.status.message(), "; ", task.Taken())));
}

// The client's wish to end it, or what made it impossible.
void Session::FailEndingAppend(AppendTask& task) {
  ReportIfLeaving(task);
  Fail(running_->failure.ok() ? CancelledAppend(task) : running_->failure);
}

// Nothing can be taken before the window is whole again, so this fails the command that needs it.
void Session::OnRefreshFailed(const absl::Status& status) {
  refresh_failed_ = true;
  window_broken_ = true;
  planner_->OnRefreshFailed();
  if (!running_ || running_->ending) return;
  std::visit([&](auto& task) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { FailRunning(task, status); },
             running_->task);
}

void Session::EndRunning(WorkId id, absl::Status failure) {
  running_->ending = true;
  running_->failure = std::move(failure);
  CancelWork(id);
}

void Session::FailRunning(AppendTask& task, absl::Status status) {
  if (Is(busy_, Purpose::kPrefill)) return EndRunning(busy_->id, std::move(status));
  // A tokenization still on its way comes too late.
  busy_.reset();
  ReportIfLeaving(task);
  Fail(std::move(status));
}

void Session::FailRunning(GenerateTask& task, absl::Status status) {
  if (task.begun()) return EndRunning(generation_id_, std::move(status));
  Fail(std::move(status));
}

// Only a chunk that is to be learned needs the window.
void Session::FailRunning(AdaptTask&, absl::Status status) {
  if (!planner_->updating_now()) return;
  planner_->CancelUpdateNow();
  if (Is(side_, Purpose::kLearn)) CancelWork(side_->id);
  Fail(std::move(status));
}

// An export does not need the window.
void Session::FailRunning(ExportTask&, absl::Status) {}

// Elsewhere the client goes on behind what the row has taken.
void Session::ReportIfLeaving(AppendTask& task) {
  if (!leaving_ || !task.has_tokens()) return;
  outbox_.Put({running_->request_id, task.Report(false, planner_->window_position())});
}

void Session::On(WorkId, RowClosed& closed) {
  if (state_ == State::kClosing) FinishEnd(closed.freed.total());
}

void Session::On(WorkId, EngineFailed& failed) {
  BeginEnd({CloseReason::kEngineFailed, absl::UnavailableError(absl::StrCat(
                                            "the engine has failed: ", failed.status.message()))});
  if (state_ == State::kClosing) FinishEnd(0);
}

// ---- Small change --------------------------------------------------------------------------

template <typename Kind>
Kind* Session::RunningTask() {
  return running_ ? std::get_if<Kind>(&running_->task) : nullptr;
}

GenerateTask* Session::GenerationOf(WorkId id) {
  return id == generation_id_ ? RunningTask<GenerateTask>() : nullptr;
}

std::optional<Session::Purpose> Session::EndWork(WorkId id) {
  for (std::optional<Busy>* work : {&busy_, &side_}) {
    if (*work && (*work)->id == id) return std::exchange(*work, std::nullopt)->purpose;
  }
  return std::nullopt;
}

void Session::Submit(Purpose purpose, RowWork work) {
  const bool beside = purpose == Purpose::kLearn || purpose == Purpose::kRefresh;
  (beside ? side_ : busy_) = Busy{++last_work_id_, purpose};
  calls_.Add([engine = environment_.engine, row = row_, id = last_work_id_,
              work = std::move(work)]() mutable { engine->Submit(row, id, std::move(work)); });
}

void Session::CancelWork(WorkId id) {
  calls_.Add([engine = environment_.engine, row = row_, id] { engine->Cancel(row, id); });
}

void Session::CloseRow() {
  calls_.Add([engine = environment_.engine, row = row_] { engine->Close(row); });
}

void Session::TakeInput(const std::vector<HistoryToken>& tokens) {
  for (const HistoryToken& token : tokens) planner_->Add(token);
  usage_.prompt_tokens += tokens.size();
  environment_.spend_tokens(this, tokens.size());
}

bool Session::PutReceipt() {
  std::optional<UpdateEvent> receipt = planner_->TakeReceipt();
  if (!receipt) return false;
  const UpdateOutcome outcome = receipt->result.outcome;
  SessionMetrics& metrics = *environment_.metrics;
  metrics.updates[static_cast<size_t>(outcome)].Increment();
  if (outcome == UpdateOutcome::kRolledBack) metrics.rollbacks.Increment();
  if (receipt->nll && receipt->base_nll) {
    metrics.nll_gain.Observe(*receipt->base_nll - *receipt->nll);
  }
  ++updates_;
  if (outcome == UpdateOutcome::kApplied) {
    ++updates_applied_;
    CountTrained(receipt->result);
  }
  outbox_.Put({0, *std::move(receipt)});
  return true;
}

void Session::CountTrained(const UpdateDone& result) {
  const uint64_t tokens = static_cast<uint64_t>(result.label_tokens) * planner_->options().epochs;
  usage_.trained_tokens += tokens;
  if (GenerateTask* generation = RunningTask<GenerateTask>()) generation->OnTrained(tokens);
}

void Session::CountFinished(FinishReason reason) {
  environment_.metrics->generations_finished[static_cast<size_t>(reason)].Increment();
}

void Session::Error(uint64_t request_id, absl::Status status) {
  outbox_.Put({request_id, ErrorEvent{std::move(status)}});
}

template <typename Body>
void Session::Answer(Body body) {
  outbox_.Put({running_->request_id, std::move(body)});
  SessionMetrics& metrics = *environment_.metrics;
  const double seconds = Seconds(Now() - running_->arrived);
  if (RunningTask<AppendTask>()) metrics.append_seconds.Observe(seconds);
  if (RunningTask<GenerateTask>()) metrics.generate_seconds.Observe(seconds);
  if (RunningTask<ExportTask>()) {
    constexpr bool kFailed = std::is_same_v<Body, ErrorEvent>;
    (kFailed ? metrics.exports.failed : metrics.exports.ok).Increment();
  }
  metrics.requests_running.Add(-1);
  running_.reset();
}

void Session::Fail(absl::Status status) { Answer(ErrorEvent{std::move(status)}); }

void Session::AnswerGenerated(FinishReason reason) {
  CountFinished(reason);
  Answer(RunningTask<GenerateTask>()->Finish(reason, Now()));
}

absl::Status Session::CancelledAppend(const AppendTask& task) {
  return absl::CancelledError(absl::StrCat("the append was cancelled; ", task.Taken()));
}

// ---- The end -------------------------------------------------------------------------------

void Session::BeginEnd(Ending ending) {
  if (ending_) return;
  AnswerAll(absl::StrCat("the session ended: ", CloseReasonName(ending.reason)));
  busy_.reset();
  side_.reset();
  ending_ = std::move(ending);
  switch (state_) {
    case State::kNew:
    case State::kQueued:
    case State::kReceiving:
    case State::kLoading: return FinishEnd(0);
    case State::kOpening: break;  // RowOpened or RowRefused goes on
    case State::kOpen: CloseRow(); break;
    case State::kClosing:
    case State::kOver: return;
  }
  state_ = State::kClosing;
}

void Session::AnswerAll(const std::string& why) {
  if (RunningTask<GenerateTask>()) {
    AnswerGenerated(FinishReason::kCancelled);
  } else if (running_) {
    Fail(absl::CancelledError(why));
  }
  for (const Waiting& waiting : waiting_) AnswerCancelled(waiting, why);
  waiting_.clear();
}

void Session::FinishEnd(uint64_t freed_bytes) {
  state_ = State::kOver;
  const char* reason = CloseReasonName(ending_->reason);
  SessionMetrics& metrics = *environment_.metrics;
  metrics.closed[static_cast<size_t>(ending_->reason)].Increment();
  if (resumes() && !opened_) metrics.resumes.failed.Increment();
  if (opened_) {
    metrics.active.Add(-1);
    metrics.duration_seconds.Observe(Seconds(Now() - *opened_));
    outbox_.Put({ending_->request_id, ClosedEvent{.reason = reason,
                                                  .usage = usage_,
                                                  .updates = updates_,
                                                  .updates_applied = updates_applied_,
                                                  .freed_bytes = freed_bytes}});
  }
  environment_.logger->Info("session_closed", {{"session", id_},
                                               {"reason", reason},
                                               {"prompt_tokens", usage_.prompt_tokens},
                                               {"generated_tokens", usage_.generated_tokens},
                                               {"updates_applied", updates_applied_}});
  outbox_.Finish(ending_->status);
  calls_.Add([self = shared_from_this(), had_row = freed_bytes > 0] {
    self->environment_.release(self.get(), had_row);
  });
}

bool Session::ReadsTooSlowly() {
  const double longest = environment_.limits.slow_reader_timeout_seconds;
  const uint64_t taken = outbox_.taken();
  if (longest == 0 || state_ != State::kOpen || outbox_.room() > 0) {
    full_outbox_.reset();
    return false;
  }
  if (!full_outbox_ || full_outbox_->taken != taken) full_outbox_ = FullOutbox{taken, Now()};
  return Seconds(Now() - full_outbox_->since) > longest;
}

void Session::CountLearning() {
  SessionMetrics& metrics = *environment_.metrics;
  const bool open = state_ == State::kOpen;
  const int32_t lag = open ? planner_->lag_chunks() : 0;
  const bool learning = open && planner_->learning();
  metrics.lag_chunks.Add(lag - std::exchange(lag_counted_, lag));
  metrics.learning.Add(learning - std::exchange(learning_counted_, learning));
  if (!planner_) return;
  const RowPlanner::Toll toll = planner_->TakeToll();
  metrics.chunks_deferred.Increment(toll.deferred);
  metrics.chunks_skipped.Increment(toll.skipped);
}

}  // namespace mayfly
