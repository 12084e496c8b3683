#include "engine/runtime/engine_loop.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <ATen/Parallel.h>

#include "absl/strings/str_cat.h"
#include "engine/device/stream.h"
#include "engine/device/torch_guard.h"
#include "engine/runtime/row_transfer.h"

namespace mayfly {
namespace {

// Sessions bound what they send; the mailbox itself need not.
constexpr size_t kUnbounded = static_cast<size_t>(-1);
constexpr char kNoAdapter[] = "the session has no adapter";
// Tokens before a generation that its first word's spelling may depend on.
constexpr int64_t kDecoderContext = 8;

absl::Status CancelledStatus() { return absl::CancelledError("cancelled"); }

TokenCounts CountTokens(const std::vector<TokenId>& tokens) {
  TokenCounts counts;
  for (const TokenId token : tokens) ++counts[token];
  return counts;
}

bool Contains(const std::vector<TokenId>& ids, TokenId id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

// Whether the row's generation may draw no more: it has used its credit, or the window is full.
bool AtHorizon(const Sequence& sequence) {
  const uint64_t window_end =
      sequence.window.start + static_cast<uint64_t>(sequence.options.window_tokens);
  return sequence.window.end() >= std::min(sequence.generation->work.horizon, window_end);
}

}  // namespace

void SetShares(const EngineOptions& options, EngineParts* parts) {
  const int32_t cores = static_cast<int32_t>(std::max(1u, std::thread::hardware_concurrency()));
  parts->threads = {.threads = options.threads > 0 ? options.threads : cores,
                    .update_threads = options.update_threads,
                    .fixed = options.deterministic};
  parts->scheduler = {.step_tokens = options.step_tokens,
                      .whole_pieces = options.deterministic,
                      .update_tokens = options.update_tokens,
                      .update_group = options.deterministic ? 1 : options.update_group};
}

EngineLoop::EngineLoop(EngineParts parts, EngineMetrics* metrics, const Logger* logger,
                       const Clock* clock)
    : parts_(std::move(parts)),
      metrics_(metrics),
      logger_(logger),
      clock_(clock),
      runner_(parts_.model.get(), parts_.kv.get(), /*separate=*/parts_.scheduler.whole_pieces),
      free_rows_(parts_.info.rows),
      scheduler_(parts_.scheduler),
      governor_(parts_.scheduler.step_tokens),
      slots_(parts_.info.rows),
      serving_(static_cast<size_t>(parts_.info.rows)),
      mailbox_(kUnbounded),
      delivery_(parts_.tokenizer.get(), parts_.chat_template.get(),
                [this](RowHandle row, WorkId id, int32_t tokens) {
                  mailbox_.PostUnbounded(StopMessage{row, id, tokens});
                }),
      thread_share_(parts_.threads),
      trainer_(std::make_unique<Trainer>(
          parts_.model.get(), parts_.layout.get(), parts_.numerics, &thread_share_, clock, metrics,
          [this](UpdateResult result) { mailbox_.PostUnbounded(std::move(result)); })),
      thread_([this] { LoopMain(); }) {}

EngineLoop::~EngineLoop() {
  mailbox_.Close();
  thread_.join();
}

absl::Status EngineLoop::Open(const RowOptions& options, std::shared_ptr<TokenSink> sink) {
  if (!healthy()) return absl::UnavailableError("the engine has failed");
  if (!mailbox_.Post(OpenMessage{options, std::move(sink)})) {
    return absl::UnavailableError("the engine is stopping");
  }
  return absl::OkStatus();
}

void EngineLoop::Submit(RowHandle row, WorkId id, RowWork work) {
  mailbox_.PostUnbounded(SubmitMessage{row, {id, std::move(work), clock_->Now()}});
}

void EngineLoop::Tokenize(TextInput text, WorkId id, std::shared_ptr<TokenSink> sink) {
  delivery_.Tokenize(std::move(text), id, std::move(sink));
}

void EngineLoop::Advance(RowHandle row, WorkId id, uint64_t horizon) {
  mailbox_.PostUnbounded(AdvanceMessage{row, id, horizon});
}

void EngineLoop::Cancel(RowHandle row, WorkId id) {
  mailbox_.PostUnbounded(CancelMessage{row, id});
}

void EngineLoop::Close(RowHandle row) { mailbox_.PostUnbounded(CloseMessage{row, clock_->Now()}); }

// ---- The loop ------------------------------------------------------------------------------

void EngineLoop::LoopMain() {
  const c10::InferenceMode no_autograd;
  const StreamScope stream(parts_.numerics.device, StreamPriority::kDecode);
  UpdateRowMetrics();
  bool busy = false;
  while (true) {
    std::deque<Message> messages = busy ? mailbox_.TakeAll() : mailbox_.WaitAndTakeAll();
    if (messages.empty() && mailbox_.closed()) break;
    // What fails where nobody can be answered, as in zeroing a row, takes the engine with it.
    const absl::Status status = RunGuarded("engine loop", [&] { busy = Turn(&messages); });
    if (status.ok()) continue;
    busy = false;
    FailEngine(status);
  }
  // Updates in flight end at their next layer; then nobody holds a row any more.
  for (auto& [row, sequence] : sequences_) {
    if (sequence.update) sequence.update->cancelled->store(true);
  }
  thread_share_.Rest();
  trainer_.reset();
}

bool EngineLoop::Turn(std::deque<Message>* messages) {
  for (Message& message : *messages) {
    std::visit([this](auto& body) { Handle(std::move(body)); }, message);
  }
  for (auto& [row, sequence] : sequences_) {
    FinishFeedIfDone(sequence);
    LandUpdate(sequence);
    StartWork(sequence);
  }
  SetLatencyTarget();
  const StepPlan plan = scheduler_.Next(Demand());
  BeginUpdates(plan.updates);
  if (!plan.slices.empty()) {
    RunStep(plan);
    return true;
  }
  thread_share_.Rest();
  last_step_.reset();
  return false;
}

void EngineLoop::Handle(OpenMessage message) {
  const auto refuse = [&](const absl::Status& status) {
    delivery_.Post({{}, std::move(message.sink), 0, PlainEvent{{0, RowRefused{status}}}});
  };
  if (!healthy()) return refuse(absl::UnavailableError("the engine has failed"));
  const std::optional<RowHandle> handle = slots_.Take();
  if (!handle) {
    return refuse(absl::ResourceExhaustedError(
        absl::StrCat("all ", slots_.rows(), " rows are taken; ", parts_.info.row_bytes.total(),
                     " bytes are missing for one more")));
  }
  Sequence& sequence = sequences_[handle->row];
  sequence = Sequence{};
  sequence.handle = *handle;
  sequence.sink = std::move(message.sink);
  sequence.options = std::move(message.options);
  sequence.tenant =
      tenants_.try_emplace(sequence.options.tenant, static_cast<int32_t>(tenants_.size()))
          .first->second;
  if (const absl::Status status = FillRow(sequence); !status.ok()) {
    Emit(sequence, 0, RowRefused{status});
    ZeroRow(sequence);
    slots_.Release(*handle);
    sequences_.erase(handle->row);
    return;
  }
  UpdateRowMetrics();
  Emit(sequence, 0, RowOpened{*handle, parts_.info.row_bytes});
}

absl::Status EngineLoop::FillRow(Sequence& sequence) {
  absl::Status restored = absl::OkStatus();
  const std::shared_ptr<const RowState> state = std::move(sequence.options.restore);
  const absl::Status status = RunGuarded("opening a row", [&] {
    if (state != nullptr) {
      restored = RestoreRow(*state, &sequence, parts_.kv.get(), parts_.adapters.get());
    } else if (sequence.options.adapter.enabled()) {
      parts_.adapters->Initialize(sequence.handle.row, sequence.options.adapter);
    }
    if (sequence.options.adapter.enabled()) TakeServingView(sequence);
  });
  return status.ok() ? restored : status;
}

void EngineLoop::Handle(SubmitMessage message) {
  Sequence* const sequence = Find(message.row);
  if (sequence != nullptr && !sequence->closing) {
    sequence->queue.push_back(std::move(message.work));
  }
}

void EngineLoop::Handle(AdvanceMessage message) {
  Sequence* const sequence = Find(message.row);
  if (sequence == nullptr) return;
  for (QueuedWork& queued : sequence->queue) {
    auto* const work = std::get_if<GenerateWork>(&queued.work);
    if (work == nullptr || queued.id != message.id) continue;
    work->horizon = std::max(work->horizon, message.horizon);
    return;
  }
  if (!sequence->generation) return;
  Generation& generation = *sequence->generation;
  if (generation.id != message.id || generation.finished) return;
  generation.work.horizon = std::max(generation.work.horizon, message.horizon);
  generation.paused = AtHorizon(*sequence);
}

void EngineLoop::Handle(CancelMessage message) {
  Sequence* const sequence = Find(message.row);
  if (sequence == nullptr || sequence->closing) return;
  if (sequence->generation && sequence->generation->id == message.id) {
    if (!sequence->generation->finished) FinishGeneration(*sequence, FinishReason::kCancelled);
  } else if (sequence->feed && sequence->feed->id == message.id) {
    AbortFeed(*sequence, CancelledStatus());
  } else if (sequence->update && sequence->update->id == message.id) {
    CancelUpdate(*sequence);
  } else {
    const auto it = std::find_if(sequence->queue.begin(), sequence->queue.end(),
                                 [&](const QueuedWork& work) { return work.id == message.id; });
    if (it == sequence->queue.end()) return;
    if (std::holds_alternative<GenerateWork>(it->work)) {
      Emit(*sequence, it->id, GenerationDone{.reason = FinishReason::kCancelled});
    } else if (std::holds_alternative<UpdateWork>(it->work)) {
      Emit(*sequence, it->id,
           UpdateDone{.outcome = UpdateOutcome::kSkipped,
                      .reason = "cancelled",
                      .adapter_version = sequence->version});
    } else {
      Emit(*sequence, it->id, WorkFailed{CancelledStatus()});
    }
    sequence->queue.erase(it);
  }
}

void EngineLoop::Handle(CloseMessage message) {
  Sequence* const sequence = Find(message.row);
  if (sequence == nullptr || sequence->closing) return;
  sequence->closing = true;
  sequence->close_requested = message.requested;
  if (sequence->update) CancelUpdate(*sequence);
  slots_.MarkClosing(sequence->handle);
  UpdateRowMetrics();
  LandUpdate(*sequence);
  ReleaseIfDone(*sequence);
}

void EngineLoop::Handle(StopMessage message) {
  Sequence* const sequence = Find(message.row);
  if (sequence == nullptr || sequence->closing || !sequence->generation) return;
  Generation& generation = *sequence->generation;
  if (generation.id != message.id) return;
  sequence->window.Truncate(generation.begin + static_cast<uint64_t>(message.tokens));
  if (base_row_.owner == message.row) base_row_.length = 0;
  generation.tokens = message.tokens;
  FinishGeneration(*sequence, FinishReason::kStop, /*stop_confirmed=*/true);
}

void EngineLoop::Handle(UpdateResult result) {
  Sequence* const sequence = Find(result.row);
  MAYFLY_CHECK(sequence != nullptr && sequence->update && sequence->update->id == result.id);
  --training_;
  const int32_t row = result.row.row;
  landed_updates_.insert_or_assign(row, std::move(result));
  LandUpdate(*sequence);
  if (sequence->closing) ReleaseIfDone(*sequence);
}

// ---- Updates -------------------------------------------------------------------------------

void EngineLoop::BeginUpdates(const std::vector<int32_t>& rows) {
  std::vector<UpdateJob> group;
  for (const int32_t row : rows) {
    const auto job = std::find_if(waiting_updates_.begin(), waiting_updates_.end(),
                                  [row](const UpdateJob& one) { return one.row.row == row; });
    group.push_back(std::move(*job));
    waiting_updates_.erase(job);
  }
  if (group.empty()) return;
  CountWaitingUpdates();
  training_ = static_cast<int32_t>(group.size());
  trainer_->Submit(std::move(group));
}

void EngineLoop::LandUpdate(Sequence& sequence) {
  const auto landed = landed_updates_.find(sequence.handle.row);
  if (landed == landed_updates_.end()) return;
  if (sequence.feed && !sequence.closing) return;  // it has begun under the version before
  UpdateResult result = std::move(landed->second);
  landed_updates_.erase(landed);
  sequence.optimizer_steps = result.steps;
  const bool publish = !sequence.closing && result.done.outcome == UpdateOutcome::kApplied;
  const absl::Status status = RunGuarded("publishing the adapter", [&] {
    // Also before the row is zeroed, or its masters are changed by other work.
    result.written.MakeCurrentStreamWait();
    if (!publish) return;
    parts_.adapters->Flip(sequence.handle.row);
    TakeServingView(sequence);
  });
  if (publish && status.ok()) {
    ++sequence.version;
  } else if (publish) {
    result.done.outcome = UpdateOutcome::kFailed;
    result.done.reason = std::string(status.message());
  }
  EndUpdate(sequence, std::move(result.done));
}

void EngineLoop::CancelUpdate(Sequence& sequence) {
  sequence.update->cancelled->store(true);
  const auto waiting =
      std::find_if(waiting_updates_.begin(), waiting_updates_.end(),
                   [&](const UpdateJob& job) { return job.row == sequence.handle; });
  if (waiting == waiting_updates_.end()) return;
  waiting_updates_.erase(waiting);
  CountWaitingUpdates();
  EndUpdate(sequence, {.outcome = UpdateOutcome::kSkipped, .reason = "cancelled"});
}

void EngineLoop::EndUpdate(Sequence& sequence, UpdateDone done) {
  const WorkId id = std::exchange(sequence.update, std::nullopt)->id;
  if (sequence.closing) return;
  done.adapter_version = sequence.version;
  Emit(sequence, id, std::move(done));
}

void EngineLoop::CountWaitingUpdates() {
  metrics_->updates_waiting.Set(static_cast<double>(waiting_updates_.size()));
}

void EngineLoop::TakeServingView(const Sequence& sequence) {
  serving_[static_cast<size_t>(sequence.handle.row)] = std::make_unique<AdapterView>(
      parts_.adapters->Serving(sequence.handle.row, sequence.options.adapter));
}

// ---- Starting work -------------------------------------------------------------------------

void EngineLoop::StartWork(Sequence& sequence) {
  while (!sequence.queue.empty() && sequence.CanStart(sequence.queue.front().work)) {
    QueuedWork queued = std::move(sequence.queue.front());
    sequence.queue.pop_front();
    std::visit([&](auto& work) { Start(sequence, queued, work); }, queued.work);
  }
}

void EngineLoop::Start(Sequence& sequence, const QueuedWork& queued, PrefillWork& work) {
  Window& window = sequence.window;
  const int64_t count = static_cast<int64_t>(work.tokens.size());
  if (window.size() + count > sequence.options.window_tokens) {
    Emit(sequence, queued.id,
         WorkFailed{absl::OutOfRangeError(absl::StrCat("the window holds ", window.size(), " of ",
                                                       sequence.options.window_tokens, " tokens, ",
                                                       count, " more do not fit"))});
    return;
  }
  Feed feed{.id = queued.id, .kind = Feed::Kind::kPrefill};
  feed.tokens = static_cast<int32_t>(count);
  feed.score_from = work.score ? window.size() : window.size() + count;
  feed.score_to = window.size() + count;
  feed.then_base = work.score_base;
  const float unknown = std::numeric_limits<float>::quiet_NaN();
  if (work.score) feed.logprobs.assign(work.tokens.size(), unknown);
  if (work.score_base) feed.base_logprobs.assign(work.tokens.size(), unknown);
  window.tokens.insert(window.tokens.end(), work.tokens.begin(), work.tokens.end());
  sequence.feed = std::move(feed);
  FinishFeedIfDone(sequence);
}

void EngineLoop::Start(Sequence& sequence, const QueuedWork& queued, GenerateWork& work) {
  if (sequence.window.size() == 0) {
    Emit(sequence, queued.id,
         WorkFailed{absl::FailedPreconditionError("nothing to continue: the window is empty")});
    return;
  }
  Generation generation;
  generation.id = queued.id;
  generation.work = std::move(work);
  generation.begin = sequence.window.end();
  generation.submitted = queued.submitted;
  const std::vector<TokenId>& tokens = sequence.window.tokens;
  if (generation.counts_window()) generation.window_counts = CountTokens(tokens);
  if (generation.counts_generated()) {
    const size_t continued =
        std::min(tokens.size(), static_cast<size_t>(generation.work.continued_tokens));
    generation.generated_counts = CountTokens({tokens.end() - continued, tokens.end()});
  }
  const auto context = tokens.end() - std::min(kDecoderContext, sequence.window.size());
  Deliver(sequence, queued.id, GenerationBegun{generation.work.stop, {context, tokens.end()}});
  sequence.generation = std::move(generation);
  PauseAtHorizon(sequence);
}

void EngineLoop::Start(Sequence& sequence, const QueuedWork& queued, RefreshWork& work) {
  MoveLower(sequence, sequence.window.Restart(work.begin));
  if (sequence.generation && sequence.generation->counts_window()) {
    sequence.generation->window_counts = CountTokens(sequence.window.tokens);
  }
  const int64_t size = sequence.window.size();
  sequence.feed =
      Feed{.id = queued.id, .kind = Feed::Kind::kRefresh, .score_from = size, .score_to = size};
  FinishFeedIfDone(sequence);
}

void EngineLoop::Start(Sequence& sequence, const QueuedWork& queued, ScoreBaseWork& work) {
  const Window& window = sequence.window;
  if (work.begin < window.start || work.end > window.end() || work.begin >= work.end) {
    Emit(sequence, queued.id,
         WorkFailed{absl::OutOfRangeError(absl::StrCat("tokens ", work.begin, "..", work.end,
                                                       " do not lie in the window ", window.start,
                                                       "..", window.end()))});
    return;
  }
  Feed feed{.id = queued.id, .kind = Feed::Kind::kScoreBase, .base = true};
  feed.tokens = static_cast<int32_t>(work.end - work.begin);
  feed.score_from = static_cast<int64_t>(work.begin - window.start);
  feed.score_to = static_cast<int64_t>(work.end - window.start);
  feed.base_logprobs.assign(work.end - work.begin, std::numeric_limits<float>::quiet_NaN());
  sequence.feed = std::move(feed);
  FinishFeedIfDone(sequence);
}

void EngineLoop::Start(Sequence& sequence, const QueuedWork& queued, UpdateWork& work) {
  const Window& window = sequence.window;
  const uint64_t end = work.begin + work.tokens.size();
  const bool there = !work.tokens.empty() && work.begin >= window.start &&
                     (work.parallel ? end <= window.end() : end == window.end());
  const int64_t row_begin = static_cast<int64_t>(work.begin - window.start);
  // The last token of the context is run with the chunk; those before it need keys and values.
  const bool context_there = work.gradient_scope == GradientScope::kWindow ||
                             (there && static_cast<int64_t>(work.context.size()) <= row_begin &&
                              window.kv_length >= row_begin - 1);
  if (!sequence.options.adapter.enabled() || !there || !context_there) {
    Emit(sequence, queued.id,
         UpdateDone{
             .outcome = UpdateOutcome::kFailed,
             .reason = absl::StrCat("the row cannot learn ", work.tokens.size(), " tokens from ",
                                    work.begin, " with ", work.context.size(), " before them"),
             .adapter_version = sequence.version});
    return;
  }
  sequence.update = {queued.id, work.parallel, std::make_shared<std::atomic<bool>>(false)};
  UpdateJob job;
  job.row = sequence.handle;
  job.id = queued.id;
  job.work = std::move(work);
  job.spec = sequence.options.adapter;
  job.state = parts_.adapters->State(sequence.handle.row);
  job.kv = parts_.kv.get();
  job.steps = sequence.optimizer_steps;
  job.row_begin = row_begin;
  job.inputs_are_kept = LowerLayers(sequence) > 0 &&
                        window.lower_length >= static_cast<int64_t>(end - window.start) - 1;
  job.cancelled = sequence.update->cancelled;
  job.queued = queued.submitted;
  job.shadow_is_free = Event::OfCurrentStream(parts_.numerics.device);
  waiting_updates_.push_back(std::move(job));
  CountWaitingUpdates();
}

void EngineLoop::Start(Sequence& sequence, const QueuedWork& queued, CheckpointWork&) {
  ChangeAdapter(sequence, queued.id, /*new_version=*/false, [&] {
    parts_.adapters->SaveCheckpoint(sequence.handle.row, sequence.options.adapter);
  });
}

void EngineLoop::Start(Sequence& sequence, const QueuedWork& queued, RollBackWork&) {
  ChangeAdapter(sequence, queued.id, /*new_version=*/true, [&] {
    parts_.adapters->RestoreCheckpoint(sequence.handle.row, sequence.options.adapter);
    sequence.optimizer_steps = 0;
  });
}

void EngineLoop::Start(Sequence& sequence, const QueuedWork& queued, ResetWork&) {
  ChangeAdapter(sequence, queued.id, /*new_version=*/true, [&] {
    parts_.adapters->Initialize(sequence.handle.row, sequence.options.adapter);
    sequence.optimizer_steps = 0;
  });
}

void EngineLoop::Start(Sequence& sequence, const QueuedWork& queued, ExportWork& work) {
  if (work.adapter_alone && !sequence.options.adapter.enabled()) {
    Emit(sequence, queued.id, WorkFailed{absl::FailedPreconditionError(kNoAdapter)});
    return;
  }
  auto state = std::make_shared<RowState>();
  const absl::Status status = RunGuarded("exporting the row", [&] {
    *state = work.adapter_alone ? ExportAdapter(sequence, *parts_.adapters)
                                : ExportRow(sequence, *parts_.kv, *parts_.adapters);
  });
  if (!status.ok()) {
    Emit(sequence, queued.id, WorkFailed{status});
    return;
  }
  Emit(sequence, queued.id, RowExported{std::move(state)});
}

void EngineLoop::ChangeAdapter(Sequence& sequence, WorkId id, bool new_version,
                               const std::function<void()>& change) {
  if (!sequence.options.adapter.enabled()) {
    Emit(sequence, id, WorkFailed{absl::FailedPreconditionError(kNoAdapter)});
    return;
  }
  if (const absl::Status status = RunGuarded("changing the adapter", change); !status.ok()) {
    Emit(sequence, id, WorkFailed{status});
    return;
  }
  if (new_version) ++sequence.version;
  Emit(sequence, id, AdapterChanged{sequence.version});
}

// ---- One step ------------------------------------------------------------------------------

StepDemand EngineLoop::Demand() {
  StepDemand demand;
  for (auto& [row, sequence] : sequences_) AddRowDemand(sequence, &demand);
  demand.feed_beside_decode = governor_.FeedTokens();
  demand.trainer_is_free = training_ == 0;
  for (const UpdateJob& job : waiting_updates_) {
    if (job.work.parallel && governor_.defers_learning()) continue;
    demand.updates.push_back({.row = job.row.row,
                              .tenant = sequences_.at(job.row.row).tenant,
                              .tokens = job.PassTokens(),
                              .service = job.ServiceTokens(),
                              .alone = job.MayBeUndone()});
  }
  return demand;
}

void EngineLoop::AddRowDemand(Sequence& sequence, StepDemand* demand) {
  if (sequence.closing || (sequence.update && !sequence.update->parallel)) return;
  const int32_t row = sequence.handle.row;
  if (const int64_t tokens = RemainingFeed(sequence); tokens > 0) {
    demand->rows.push_back({row, sequence.tenant, tokens, false});
  } else if (!sequence.feed && sequence.generating()) {
    demand->rows.push_back({row, sequence.tenant, 1, true});
  }
}

// The most demanding of the rows that generate sets it.
void EngineLoop::SetLatencyTarget() {
  double target = 0;
  for (const auto& [row, sequence] : sequences_) {
    const double wish = sequence.options.target_inter_token_seconds;
    if (!sequence.closing && sequence.generating() && wish > 0) {
      target = target > 0 ? std::min(target, wish) : wish;
    }
  }
  governor_.SetTarget(target);
  defers_learning_.store(governor_.defers_learning(), std::memory_order_relaxed);
  thread_share_.SetPressure(governor_.defers_learning());
}

// Tokens that can be fed alike: those whose lower layers are there come before the others.
int64_t EngineLoop::RemainingFeed(const Sequence& sequence) {
  const auto alike = [](int64_t begin, int64_t end, int64_t lower_length) {
    return (begin < lower_length ? std::min(end, lower_length) : end) - begin;
  };
  const Window& window = sequence.window;
  if (sequence.feed && sequence.feed->base) {
    if (!ClaimBaseRow(sequence)) return 0;
    return alike(base_row_.length, sequence.feed->score_to - 1, base_row_.lower_length);
  }
  if (!sequence.feed && !sequence.generating()) return 0;
  return alike(window.kv_length, window.size() - 1, window.lower_length);
}

// The frozen base model has one row; a comparison takes it until it is done, and finds there what
// an earlier comparison of the same window left. Of another session it finds nothing. Whether one
// came between must not show in the shapes of a deterministic engine, where each starts afresh.
bool EngineLoop::ClaimBaseRow(const Sequence& sequence) {
  if (base_row_.in_use) return base_row_.owner == sequence.handle;
  if (base_row_.owner != sequence.handle) ZeroBaseRow();
  const bool same = !parts_.info.deterministic && base_row_.owner == sequence.handle &&
                    base_row_.start == sequence.window.start;
  const int64_t known = same ? base_row_.length : 0;
  base_row_ = {sequence.handle,
               sequence.window.start,
               std::min(known, std::max<int64_t>(0, sequence.feed->score_from - 1)),
               /*lower_length=*/0,
               base_row_.written,
               /*in_use=*/true};
  CopyLowerToBase(sequence);
  return true;
}

// Below the adapter the row is the base model's. Where that fails the layers are computed.
void EngineLoop::CopyLowerToBase(const Sequence& sequence) {
  const int64_t begin = base_row_.length, end = sequence.window.lower_length;
  if (begin >= end) return;
  base_row_.written = std::max(base_row_.written, end);
  const absl::Status status = RunGuarded("copying the lower layers", [&] {
    parts_.kv->CopyLower(sequence.handle.row, parts_.kv->base_row(), begin, end,
                         LowerLayers(sequence));
  });
  if (status.ok()) base_row_.lower_length = end;
}

int32_t EngineLoop::LowerLayers(const Sequence& sequence) const {
  const AdapterSpec& adapter = sequence.options.adapter;
  return parts_.kv->keeps_inputs() && adapter.enabled() ? adapter.first_layer : 0;
}

// Where that fails the lower layers are computed again.
void EngineLoop::MoveLower(Sequence& sequence, int64_t dropped) {
  int64_t& length = sequence.window.lower_length;
  if (length == 0 || dropped == 0) return;
  const absl::Status status = RunGuarded("moving the lower layers", [&] {
    parts_.model->MoveLowerToFront(sequence.handle.row, dropped, length, LowerLayers(sequence),
                                   *parts_.kv);
  });
  if (!status.ok()) length = 0;
}

void EngineLoop::ZeroBaseRow() {
  parts_.kv->Zero(parts_.kv->base_row(), base_row_.written);
  base_row_ = {};
}

void EngineLoop::RunStep(const StepPlan& plan) {
  const TimePoint begin = clock_->Now();
  std::vector<RunSlice> slices;
  for (const StepSlice& slice : plan.slices) slices.push_back(MakeSlice(slice));
  std::vector<RunOutput> outputs;
  thread_share_.BeginStep();
  const absl::Status status = RunGuarded("step", [&] { outputs = runner_.Run(slices); });
  thread_share_.EndStep();
  if (!status.ok()) return FailStep(plan, status);
  ObserveStep(plan, begin);
  std::vector<GeneratedToken> drawn(outputs.size());
  const absl::Status drew = RunGuarded("drawing tokens", [&] { Draw(plan, outputs, &drawn); });
  if (!drew.ok()) return FailStep(plan, drew);
  for (size_t i = 0; i < outputs.size(); ++i) {
    Apply(plan.slices[i], outputs[i], std::move(drawn[i]));
  }
}

void EngineLoop::Draw(const StepPlan& plan, std::vector<RunOutput>& outputs,
                      std::vector<GeneratedToken>* drawn) {
  at::parallel_for(0, static_cast<int64_t>(outputs.size()), 1, [&](int64_t first, int64_t last) {
    for (size_t i = static_cast<size_t>(first); i < static_cast<size_t>(last); ++i) {
      const StepSlice& slice = plan.slices[i];
      if (!slice.decode || !std::isfinite(outputs[i].log_sum_exp)) continue;
      (*drawn)[i] = Sample(sequences_.at(slice.row), outputs[i]);
    }
  });
}

void EngineLoop::ObserveStep(const StepPlan& plan, TimePoint begin) {
  const TimePoint end = clock_->Now();
  Histogram& seconds =
      plan.decodes() ? metrics_->decode_step_seconds : metrics_->prefill_step_seconds;
  seconds.Observe(Seconds(end - begin));
  metrics_->step_batch_size.Observe(static_cast<double>(plan.slices.size()));
  metrics_->step_tokens.Observe(static_cast<double>(plan.tokens()));
  if (plan.decodes()) {
    int64_t fed = 0;
    for (const StepSlice& slice : plan.slices) fed += slice.decode ? 0 : slice.tokens;
    governor_.OnStep(Seconds(end - last_step_.value_or(begin)), fed);
  }
  last_step_ = end;
}

RunSlice EngineLoop::MakeSlice(const StepSlice& slice) {
  Sequence& sequence = sequences_.at(slice.row);
  RunSlice run = FeedSlice(sequence, slice.tokens);
  if (run.row == slice.row) run.adapter = serving_[static_cast<size_t>(slice.row)].get();
  run.want_logits = slice.decode;
  if (slice.decode && !sequence.generation->started) {
    sequence.generation->started = clock_->Now();
  }
  return run;
}

RunSlice EngineLoop::FeedSlice(Sequence& sequence, int64_t tokens) {
  Window& window = sequence.window;
  const bool base = sequence.feed && sequence.feed->base;
  const int64_t begin = base ? base_row_.length : window.kv_length;
  RunSlice run;
  run.row = base ? parts_.kv->base_row() : sequence.handle.row;
  run.row_begin = begin;
  run.tokens =
      std::span(window.tokens).subspan(static_cast<size_t>(begin), static_cast<size_t>(tokens));
  if (sequence.feed) {
    // The hidden state of token i predicts token i + 1.
    const int64_t from = std::max(sequence.feed->score_from, begin + 1);
    const int64_t to = std::min(sequence.feed->score_to, begin + 1 + tokens);
    if (from < to) {
      run.targets = std::span(window.tokens)
                        .subspan(static_cast<size_t>(from), static_cast<size_t>(to - from));
    }
  }
  const int64_t lower_length = base ? base_row_.lower_length : window.lower_length;
  run.first_layer = LowerLayers(sequence);
  run.resumes = begin < lower_length;
  int64_t& written = base ? base_row_.written : window.kv_written;
  written = std::max(written, begin + tokens);
  return run;
}

void EngineLoop::Apply(const StepSlice& slice, const RunOutput& output, GeneratedToken drawn) {
  Sequence& sequence = sequences_.at(slice.row);
  if (slice.decode && !std::isfinite(output.log_sum_exp)) {
    // Of an adapter that has diverged; no token can be drawn from them.
    FailGeneration(sequence, absl::InternalError("the logits are not finite"));
  } else if (slice.decode) {
    AddKeys(sequence, slice.tokens);
    ApplyToken(sequence, std::move(drawn));
  } else if (sequence.feed) {
    ApplyFeed(sequence, slice.tokens, output);
  } else {
    AddKeys(sequence, slice.tokens);  // a generation catches up
  }
}

void EngineLoop::AddKeys(Sequence& sequence, int64_t tokens) {
  Window& window = sequence.window;
  window.kv_length += tokens;
  if (LowerLayers(sequence) > 0)
    window.lower_length = std::max(window.lower_length, window.kv_length);
}

void EngineLoop::ApplyFeed(Sequence& sequence, int64_t tokens, const RunOutput& output) {
  Feed& feed = *sequence.feed;
  const int64_t length = feed.base ? base_row_.length : sequence.window.kv_length;
  const int64_t first = std::max(feed.score_from, length + 1) - feed.score_from;
  std::vector<float>& logprobs = feed.base ? feed.base_logprobs : feed.logprobs;
  std::copy(output.logprobs.begin(), output.logprobs.end(), logprobs.begin() + first);
  if (feed.base) {
    base_row_.length += tokens;
  } else {
    AddKeys(sequence, tokens);
  }
  FinishFeedIfDone(sequence);
}

void EngineLoop::FinishFeedIfDone(Sequence& sequence) {
  if (!sequence.feed) return;
  Feed& feed = *sequence.feed;
  if (!feed.base && sequence.window.to_feed() > 0) return;
  if (feed.base && (!ClaimBaseRow(sequence) || base_row_.length < feed.score_to - 1)) return;
  if (feed.base) base_row_.in_use = false;
  if (feed.then_base) {
    feed.base = true;
    feed.then_base = false;
    feed.score_from = feed.score_to - feed.tokens;
    FinishFeedIfDone(sequence);
    return;
  }
  const Feed done = std::exchange(sequence.feed, std::nullopt).value();
  if (done.kind == Feed::Kind::kRefresh) {
    Emit(sequence, done.id, RefreshDone{});
    return;
  }
  if (done.kind == Feed::Kind::kPrefill) {
    metrics_->prompt_tokens.Increment(static_cast<uint64_t>(done.tokens));
  }
  Emit(sequence, done.id,
       Scored{true, done.tokens, sequence.version, done.logprobs, done.base_logprobs});
}

void EngineLoop::AbortFeed(Sequence& sequence, const absl::Status& status) {
  const Feed feed = std::exchange(sequence.feed, std::nullopt).value();
  if (feed.base && base_row_.owner == sequence.handle) base_row_.in_use = false;
  WorkFailed failed{status};
  if (feed.kind == Feed::Kind::kPrefill) {
    // Tokens without keys leave, but for the newest of those that have been fed.
    Window& window = sequence.window;
    const int64_t before = window.size() - feed.tokens;
    window.Truncate(window.start + static_cast<uint64_t>(std::max(before, window.kv_length + 1)));
    failed.tokens_done = static_cast<int32_t>(window.size() - before);
  }
  Emit(sequence, feed.id, std::move(failed));
}

// ---- Generation ----------------------------------------------------------------------------

GeneratedToken EngineLoop::Sample(const Sequence& sequence, RunOutput& output) {
  const Generation& generation = *sequence.generation;
  const std::span<float> logits(output.logits.mutable_data_ptr<float>(),
                                static_cast<size_t>(output.logits.numel()));
  GeneratedToken token;
  token.adapter_version = sequence.version;
  for (const TokenId id : TopTokens(logits, generation.work.logprobs)) {
    token.top.push_back({id, logits[static_cast<size_t>(id)] - output.log_sum_exp, {}});
  }
  std::vector<float> before_penalties;
  const bool penalized = generation.counts_window() || generation.counts_generated();
  if (penalized) before_penalties.assign(logits.begin(), logits.end());
  token.id = SampleToken(
      generation.work.sampling,
      {logits, &generation.window_counts, &generation.generated_counts, sequence.window.end()});
  const float logit = penalized ? before_penalties[static_cast<size_t>(token.id)]
                                : logits[static_cast<size_t>(token.id)];
  token.logprob = logit - output.log_sum_exp;
  return token;
}

void EngineLoop::ApplyToken(Sequence& sequence, GeneratedToken token) {
  Generation& generation = *sequence.generation;
  const TokenId id = token.id;
  sequence.window.tokens.push_back(id);
  generation.Count(id);
  metrics_->generated_tokens.Increment();
  if (!generation.first_token) generation.first_token = clock_->Now();

  const GenerateWork& work = generation.work;
  const bool eos = !work.ignore_eos && Contains(parts_.info.eos_token_ids, id);
  const bool stop = Contains(work.stop_token_ids, id);
  Deliver(sequence, generation.id, TokenProduced{std::move(token), eos || stop});
  if (eos || stop) {
    FinishGeneration(sequence, eos ? FinishReason::kEos : FinishReason::kStop);
  } else if (generation.tokens >= work.max_tokens) {
    FinishGeneration(sequence, FinishReason::kLength);
  } else {
    PauseAtHorizon(sequence);
  }
}

void EngineLoop::PauseAtHorizon(Sequence& sequence) {
  if (!AtHorizon(sequence)) return;
  sequence.generation->paused = true;
  Deliver(sequence, sequence.generation->id, GenerationAtHorizon{sequence.window.end()});
}

void EngineLoop::FinishGeneration(Sequence& sequence, FinishReason reason, bool stop_confirmed) {
  Generation& generation = *sequence.generation;
  generation.finished = true;
  const auto since = [&](TimePoint time) { return Seconds(time - generation.submitted); };
  GenerationDone done{.reason = reason, .tokens = generation.tokens};
  if (generation.started) done.queue_seconds = since(*generation.started);
  if (generation.first_token) done.first_token_seconds = since(*generation.first_token);
  done.total_seconds = since(clock_->Now());
  Deliver(sequence, generation.id, GenerationEnded{done, stop_confirmed});
}

// ---- Faults --------------------------------------------------------------------------------

void EngineLoop::FailStep(const StepPlan& plan, const absl::Status& status) {
  logger_->Error("step_failed", {{"error", std::string(status.message())}});
  for (const StepSlice& slice : plan.slices) {
    Sequence& sequence = sequences_.at(slice.row);
    if (sequence.feed) {
      AbortFeed(sequence, status);
    } else {
      FailGeneration(sequence, status);
    }
  }
  // A fault that a fresh small computation meets again is the device's.
  const absl::Status probe = RunGuarded("probing the device", [&] {
    at::ones({16}, parts_.numerics.ActivationOptions()).sum().item<float>();
  });
  if (!probe.ok()) FailEngine(probe);
}

void EngineLoop::FailGeneration(Sequence& sequence, const absl::Status& status) {
  sequence.generation->finished = true;
  Emit(sequence, sequence.generation->id, WorkFailed{status, sequence.generation->tokens});
}

void EngineLoop::FailEngine(const absl::Status& status) {
  logger_->Error("engine_failed", {{"error", std::string(status.message())}});
  healthy_.store(false);
  for (auto& [row, sequence] : sequences_) Emit(sequence, 0, EngineFailed{status});
}

// ---- Rows ----------------------------------------------------------------------------------

Sequence* EngineLoop::Find(RowHandle row) {
  return slots_.Owns(row) ? &sequences_.at(row.row) : nullptr;
}

void EngineLoop::ReleaseIfDone(Sequence& sequence) {
  if (sequence.update) return;
  const RowHandle handle = sequence.handle;
  ZeroRow(sequence);
  if (base_row_.owner == handle) ZeroBaseRow();
  slots_.Release(handle);
  const double seconds = Seconds(clock_->Now() - sequence.close_requested);
  metrics_->slot_release_seconds.Observe(seconds);
  UpdateRowMetrics();
  Emit(sequence, 0, RowClosed{parts_.info.row_bytes, seconds});
  sequences_.erase(handle.row);
}

void EngineLoop::ZeroRow(Sequence& sequence) {
  const int64_t row = sequence.handle.row;
  parts_.kv->Zero(row, sequence.window.kv_written);
  if (!sequence.options.adapter.enabled()) return;
  parts_.adapters->Zero(row, sequence.options.adapter);
  serving_[static_cast<size_t>(row)].reset();
}

void EngineLoop::UpdateRowMetrics() {
  const int32_t free = slots_.count(SlotState::kFree);
  free_rows_.store(free, std::memory_order_relaxed);
  metrics_->rows_free.Set(free);
  metrics_->rows_active.Set(slots_.count(SlotState::kActive));
  metrics_->rows_closing.Set(slots_.count(SlotState::kClosing));
}

void EngineLoop::Emit(const Sequence& sequence, WorkId id, decltype(EngineEvent::body) body) {
  Deliver(sequence, id, PlainEvent{{id, std::move(body)}});
}

void EngineLoop::Deliver(const Sequence& sequence, WorkId id, decltype(DeliveryItem::body) body) {
  delivery_.Post({sequence.handle, sequence.sink, id, std::move(body)});
}

}  // namespace mayfly
