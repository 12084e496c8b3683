#include "session/row_planner.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/log.h"
#include "engine/base/status_macros.h"
#include "session/options_resolver.h"

namespace mayfly {

RowPlanner::RowPlanner(const AdaptationOptions& options, int32_t window_tokens,
                       int32_t max_update_tokens)
    : window_tokens_(window_tokens), max_update_tokens_(max_update_tokens), options_(options) {}

RowPlanner::State RowPlanner::Save() const {
  MAYFLY_CHECK(!learning());
  State state{.options = options_,
              .paused = paused_,
              .position = position_,
              .window_start = window_start_,
              .history = {},
              .chunk_begin = chunk_begin_,
              .chunk_index = chunk_index_,
              .deferred_chunks = deferred_chunks_,
              .version = version_,
              .learned_chunks = learned_chunks_,
              .updates_since_refresh = updates_since_refresh_,
              .refresh_due = refresh_due_,
              .mean_excess = gate_.mean_excess()};
  for (uint64_t position = history_.begin(); position < history_.end(); ++position) {
    state.history.push_back(history_.at(position));
  }
  return state;
}

absl::Status RowPlanner::Check(const State& state, int32_t window_tokens) {
  const uint64_t window = static_cast<uint64_t>(window_tokens);
  const uint64_t context = std::min<uint64_t>(state.chunk_begin, state.options.context_tokens);
  const bool ordered = state.window_start <= state.chunk_begin &&
                       state.chunk_begin <= state.position &&
                       state.position - state.window_start <= window;
  const bool remembered = ordered && state.history.size() <= state.position &&
                          state.history.size() >= state.position - state.chunk_begin + context;
  // One chunk more than may be collected has never been.
  const uint64_t chunk_tokens = std::max(1, state.options.chunk_tokens);
  const bool bounded = state.deferred_chunks <= (state.position - state.chunk_begin) / chunk_tokens;
  if (remembered && bounded && state.updates_since_refresh >= 0 &&
      std::isfinite(state.mean_excess)) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError("what it collects to learn is not where its stream is");
}

RowPlanner::RowPlanner(const State& state, int32_t window_tokens, int32_t max_update_tokens)
    : window_tokens_(window_tokens),
      max_update_tokens_(max_update_tokens),
      options_(state.options),
      gate_(state.mean_excess),
      paused_(state.paused),
      position_(state.position),
      window_start_(state.window_start),
      history_(state.position - state.history.size(), state.history),
      chunk_begin_(state.chunk_begin),
      chunk_index_(state.chunk_index),
      deferred_chunks_(state.deferred_chunks),
      version_(state.version),
      learned_chunks_(state.learned_chunks),
      updates_since_refresh_(state.updates_since_refresh),
      refresh_due_(state.refresh_due) {}

void RowPlanner::Add(const HistoryToken& token) {
  MAYFLY_CHECK(position_ < horizon());
  history_.Append(token);
  ++position_;
  if (!options_.enabled()) StartAfresh();
}

uint64_t RowPlanner::horizon() const {
  if (!options_.enabled()) return window_end();
  return std::min(window_end(), LagBound());
}

uint64_t RowPlanner::LagBound() const {
  const uint64_t lag = parallel() ? options_.max_lag_chunks : 0;
  return OldestUnlearned() + (lag + 1 + deferred_chunks_) * options_.chunk_tokens;
}

std::optional<RowWork> RowPlanner::NextLearning(bool deferring) {
  deferring_ = deferring;
  if (!learning() && ChunkIsComplete()) {
    if (Waits()) {
      Defer();
    } else if (!parallel() || !RefreshIsDue()) {
      BeginChunk();
    }
  }
  if (learning() && cancelled_) SkipChunk("cancelled");
  switch (phase_) {
    case Phase::kCollecting: return std::nullopt;
    case Phase::kScoringBase: {
      const TokenSpan missing = *MissingBaseScores(history_, chunk_);
      return ScoreBaseWork{missing.begin, missing.end};
    }
    case Phase::kRollingBack: return RollBackWork{};
    case Phase::kCheckpointing: return CheckpointWork{};
    case Phase::kUpdating: return *update_;
  }
  return std::nullopt;
}

std::optional<RefreshWork> RowPlanner::NextRefresh() {
  if (learning() || !RefreshIsDue()) return std::nullopt;
  refresh_begin_ = RefreshedStart();
  return RefreshWork{refresh_begin_};
}

// Where tokens are collected while a chunk is learned, the window cannot be computed again until
// that chunk is done: it must have room for all of them before.
bool RowPlanner::RefreshIsDue() const {
  const int32_t held = window_position();
  if (held == 0) return false;
  if (refresh_due_) return true;
  if (RefreshedStart() == window_start_) return false;  // it is full of what is to be learned
  const bool begins = parallel() && ChunkIsComplete() && !Waits();
  return held >= window_tokens_ || (begins && LagBound() > window_end());
}

uint64_t RowPlanner::RefreshedStart() const {
  const uint64_t context = std::min<uint64_t>(chunk_begin_, options_.context_tokens);
  return std::max(window_start_, chunk_begin_ - context);
}

int32_t RowPlanner::lag_chunks() const {
  const uint64_t chunk_tokens = options_.chunk_tokens;
  const uint64_t in_hand =
      learning() ? std::max<uint64_t>(chunk_.size() / chunk_tokens, 1) : complete_now_;
  return static_cast<int32_t>(learning() ? in_hand + CompleteChunks()
                                         : std::max(in_hand, CompleteChunks()));
}

std::optional<UpdateEvent> RowPlanner::TakeReceipt() { return std::exchange(receipt_, {}); }

void RowPlanner::OnBaseScored(const Scored& scored) {
  MAYFLY_CHECK(phase_ == Phase::kScoringBase);
  if (const std::optional<TokenSpan> missing = MissingBaseScores(history_, chunk_)) {
    uint64_t position = missing->begin;
    for (const float logprob : scored.base_logprobs) history_.SetBaseLogprob(position++, logprob);
  }
  if (scored.done) JudgeChunk();
}

void RowPlanner::OnAdapterChanged(const AdapterChanged& changed) {
  if (phase_ == Phase::kCheckpointing) {
    phase_ = Phase::kUpdating;
    return;
  }
  MAYFLY_CHECK(phase_ == Phase::kRollingBack);
  AdapterReplaced(changed.adapter_version);
  FinishChunk(Result(UpdateOutcome::kRolledBack,
                     absl::StrCat("the adapter did worse than the base by more than ",
                                  options_.gate_threshold, " nats per token")));
  options_.optimizer.learning_rate /= 2;
}

void RowPlanner::OnUpdateDone(const UpdateDone& done) {
  MAYFLY_CHECK(phase_ == Phase::kUpdating);
  version_ = done.adapter_version;
  if (done.outcome == UpdateOutcome::kApplied) {
    ++learned_chunks_;
    ++updates_since_refresh_;
    const bool every_update = options_.kv_policy == KvPolicy::kRefresh;
    const bool this_update = options_.kv_policy == KvPolicy::kRefreshEvery &&
                             updates_since_refresh_ >= options_.refresh_every;
    refresh_due_ |= every_update || this_update;
  }
  FinishChunk(done);
}

void RowPlanner::OnRefreshDone() {
  window_start_ = refresh_begin_;
  refresh_due_ = false;
  updates_since_refresh_ = 0;
}

// A base that could not be scored leaves nothing to judge by; a checkpoint that could not be kept
// leaves the one before it.
void RowPlanner::OnLearningFailed(const absl::Status& status) {
  if (phase_ == Phase::kRollingBack) {
    FinishChunk(Result(UpdateOutcome::kFailed, absl::StrCat("roll-back: ", status.message())));
  } else {
    phase_ = Phase::kUpdating;
  }
}

absl::Status RowPlanner::Change(const AdaptationWishes& wishes) {
  if (!options_.enabled()) {
    return absl::FailedPreconditionError("the session has no adapter (preset off)");
  }
  MAYFLY_ASSIGN_OR_RETURN(options_, ChangeAdaptation(options_, wishes));
  return absl::OkStatus();
}

absl::Status RowPlanner::UpdateNow() {
  if (paused_) return absl::FailedPreconditionError("adaptation is paused");
  const TokenSpan collected{chunk_begin_, position_};
  if (!PlanUpdate(history_, collected, chunk_index_, learned_chunks_, options_)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "none of the ", collected.size(), " tokens since the last update may be learned"));
  }
  complete_now_ = true;
  return absl::OkStatus();
}

void RowPlanner::CancelUpdateNow() {
  cancelled_ = learning();
  complete_now_ = false;
}

// The tokens collected were scored by the adapter that is gone, so they start no new one.
void RowPlanner::OnReset(const AdapterChanged& changed) {
  AdapterReplaced(changed.adapter_version);
  learned_chunks_ = 0;
  StartAfresh();
}

uint64_t RowPlanner::CompleteChunks() const {
  if (!options_.enabled()) return 0;
  return (position_ - chunk_begin_) / options_.chunk_tokens;
}

bool RowPlanner::ChunkIsComplete() const { return complete_now_ || CompleteChunks() > 0; }

// They are learned in one pass, in a window that also holds their context and the chunk that is
// collected meanwhile.
uint64_t RowPlanner::MaxMergedChunks() const {
  const int32_t chunk = options_.chunk_tokens;
  const int32_t context = options_.context_tokens;
  const int32_t in_window = (window_tokens_ - context) / chunk - 1;
  int32_t most = std::min(kMaxMergedChunks, in_window);
  if (max_update_tokens_ > 0) {
    const bool whole_window = options_.gradient_scope == GradientScope::kWindow;
    most = std::min(most, (max_update_tokens_ - (whole_window ? context : 0)) / chunk);
  }
  return std::max(most, 0);
}

void RowPlanner::Defer() {
  const uint64_t complete = CompleteChunks();
  toll_.deferred += complete - deferred_chunks_;
  deferred_chunks_ = complete;
  if (complete <= MaxMergedChunks()) return;
  ++toll_.skipped;
  TakeChunk(chunk_begin_ + options_.chunk_tokens);
  SkipChunk("learning would have slowed tokens that are slower than target_inter_token_ms");
}

void RowPlanner::TakeChunk(uint64_t end) {
  lag_when_begun_ = lag_chunks();
  chunk_ = {chunk_begin_, end};
  chunk_begin_ = end;
}

uint64_t RowPlanner::EndOfNextChunk() const {
  const uint64_t complete = CompleteChunks();
  if (complete == 0) return position_;  // UpdateNow
  const uint64_t most = deferred_chunks_ > 0 ? std::max<uint64_t>(MaxMergedChunks(), 1) : 1;
  return chunk_begin_ + std::min(complete, most) * options_.chunk_tokens;
}

void RowPlanner::BeginChunk() {
  TakeChunk(EndOfNextChunk());
  if (paused_) return SkipChunk("adaptation is paused");
  update_ = PlanUpdate(history_, chunk_, chunk_index_, learned_chunks_, options_);
  if (!update_) return SkipChunk("no token of the chunk may be learned");
  update_->parallel = parallel() || chunk_.end < position_;
  phase_ = Phase::kScoringBase;
  if (!options_.receipt || !MissingBaseScores(history_, chunk_)) JudgeChunk();
}

// A version is kept once it has proved itself on a chunk that it had not learned, and before that
// chunk changes it.
void RowPlanner::JudgeChunk() {
  phase_ = Phase::kUpdating;
  const ChunkScore score = ScoreOf(history_, chunk_);
  if (!options_.gate || !score.nll || !score.base_nll) return;
  switch (gate_.Judge(*score.nll, *score.base_nll, options_.gate_threshold)) {
    case AdaptationGate::Verdict::kGood: phase_ = Phase::kCheckpointing; break;
    case AdaptationGate::Verdict::kTolerated: break;
    case AdaptationGate::Verdict::kBad: phase_ = Phase::kRollingBack; break;
  }
}

void RowPlanner::FinishChunk(UpdateDone result) {
  const ChunkScore score = ScoreOf(history_, chunk_);
  const uint64_t chunks = chunk_.size() / options_.chunk_tokens;
  receipt_ = UpdateEvent{.result = std::move(result),
                         .chunk_index = chunk_index_,
                         .tokens = static_cast<int32_t>(chunk_.size()),
                         .merged_chunks = static_cast<int32_t>(std::max<uint64_t>(chunks, 1)),
                         .lag_chunks = lag_when_begun_,
                         .learning_rate = update_ ? update_->optimizer.learning_rate : 0,
                         .nll = score.nll,
                         .base_nll = score.base_nll};
  chunk_index_ += std::max<uint64_t>(chunks, 1);
  deferred_chunks_ -= std::min(deferred_chunks_, chunks);
  phase_ = Phase::kCollecting;
  update_.reset();
  cancelled_ = false;
  complete_now_ = complete_now_ && chunk_begin_ < position_;
  DropHistory();
}

void RowPlanner::StartAfresh() {
  chunk_begin_ = position_;
  deferred_chunks_ = 0;
  DropHistory();
}

void RowPlanner::DropHistory() {
  history_.DropBefore(chunk_begin_ - std::min<uint64_t>(chunk_begin_, options_.context_tokens));
}

void RowPlanner::SkipChunk(const char* reason) {
  FinishChunk(Result(UpdateOutcome::kSkipped, reason));
}

// Whatever the KV policy: what a bad or a forgotten adapter computed goes with it.
void RowPlanner::AdapterReplaced(uint64_t version) {
  version_ = version;
  gate_.Reset();
  refresh_due_ = true;
}

UpdateDone RowPlanner::Result(UpdateOutcome outcome, std::string reason) const {
  UpdateDone result;
  result.outcome = outcome;
  result.reason = std::move(reason);
  result.adapter_version = version_;
  return result;
}

}  // namespace mayfly
