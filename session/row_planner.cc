#include "session/row_planner.h"

#include <algorithm>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/log.h"
#include "engine/base/status_macros.h"
#include "session/options_resolver.h"

namespace mayfly {

RowPlanner::RowPlanner(const AdaptationOptions& options, int32_t window_tokens)
    : window_tokens_(window_tokens), options_(options) {}

void RowPlanner::Add(const HistoryToken& token) {
  MAYFLY_CHECK(position_ < horizon());
  history_.Append(token);
  ++position_;
  if (!options_.enabled()) StartChunk();
}

uint64_t RowPlanner::horizon() const {
  const uint64_t window_end = window_start_ + window_tokens_;
  if (!options_.enabled()) return window_end;
  return std::min(window_end, chunk_.begin + options_.chunk_tokens);
}

std::optional<RowWork> RowPlanner::NextLearning() {
  if (phase_ == Phase::kCollecting && ChunkIsComplete()) BeginChunk();
  if (phase_ != Phase::kCollecting && cancelled_) SkipChunk("cancelled");
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

std::optional<RefreshWork> RowPlanner::NextRefresh() const {
  const int32_t held = window_position();
  if (held == 0 || (!refresh_due_ && held < window_tokens_)) return std::nullopt;
  const uint64_t in_progress = position_ - chunk_.begin;
  return RefreshWork{position_ - std::min<uint64_t>(held, options_.context_tokens + in_progress)};
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
  window_start_ = NextRefresh()->begin;
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
  const TokenSpan collected{chunk_.begin, position_};
  if (!PlanUpdate(history_, collected, chunk_index_, learned_chunks_, options_)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "none of the ", collected.size(), " tokens since the last update may be learned"));
  }
  complete_now_ = true;
  return absl::OkStatus();
}

void RowPlanner::CancelUpdateNow() {
  cancelled_ = phase_ != Phase::kCollecting;
  complete_now_ = cancelled_;
}

// The tokens in progress were scored by the adapter that is gone, so they start no new one.
void RowPlanner::OnReset(const AdapterChanged& changed) {
  AdapterReplaced(changed.adapter_version);
  learned_chunks_ = 0;
  StartChunk();
}

bool RowPlanner::ChunkIsComplete() const {
  if (!options_.enabled()) return false;
  return complete_now_ || position_ - chunk_.begin >= static_cast<uint64_t>(options_.chunk_tokens);
}

void RowPlanner::BeginChunk() {
  chunk_.end = position_;
  if (paused_) return SkipChunk("adaptation is paused");
  update_ = PlanUpdate(history_, chunk_, chunk_index_, learned_chunks_, options_);
  if (!update_) return SkipChunk("no token of the chunk may be learned");
  if (options_.receipt && MissingBaseScores(history_, chunk_)) {
    phase_ = Phase::kScoringBase;
  } else {
    JudgeChunk();
  }
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
  receipt_ = UpdateEvent{.result = std::move(result),
                         .chunk_index = chunk_index_,
                         .tokens = static_cast<int32_t>(chunk_.size()),
                         .learning_rate = update_ ? update_->optimizer.learning_rate : 0,
                         .nll = score.nll,
                         .base_nll = score.base_nll};
  phase_ = Phase::kCollecting;
  update_.reset();
  complete_now_ = false;
  cancelled_ = false;
  ++chunk_index_;
  StartChunk();
}

void RowPlanner::StartChunk() {
  chunk_ = {position_, position_};
  history_.DropBefore(position_ - std::min<uint64_t>(position_, options_.context_tokens));
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
