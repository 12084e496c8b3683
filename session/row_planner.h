#pragma once

// Plans what one row must do besides its client's commands: score the frozen base, keep or bring
// back a version, learn a chunk, compute its window again. Knows the row's stream, its window and
// the chunk in progress; submits nothing itself. Owned by Session and guarded by its mutex.
//
// A chunk that is complete goes through these phases, the ones in brackets where options ask for
// them: [score the base] -> roll back, or [checkpoint] -> update. Each chunk yields exactly one
// receipt.

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "engine/types.h"
#include "session/adaptation_gate.h"
#include "session/token_history.h"
#include "session/types.h"
#include "session/update_policy.h"

namespace mayfly {

class RowPlanner {
 public:
  RowPlanner(const AdaptationOptions& options, int32_t window_tokens);

  // ---- The stream ---------------------------------------------------------------------------

  // The row took this token.
  void Add(const HistoryToken& token);
  // Tokens of the stream so far.
  uint64_t position() const { return position_; }
  int32_t window_position() const { return static_cast<int32_t>(position_ - window_start_); }
  // The stream position that the row may grow to before something here is due: the end of the chunk
  // or of the window.
  uint64_t horizon() const;

  // ---- What is due --------------------------------------------------------------------------

  // The next piece of learning; nothing while no chunk is complete. Its answer comes before the
  // next call.
  std::optional<RowWork> NextLearning();
  // The window must be computed again before the row takes another token.
  std::optional<RefreshWork> NextRefresh() const;
  // The receipt of a chunk that has just been finished with, once.
  std::optional<UpdateEvent> TakeReceipt();
  // A complete chunk waits to be learned, or is being learned.
  bool learning() const { return phase_ != Phase::kCollecting || ChunkIsComplete(); }

  // ---- Answers ------------------------------------------------------------------------------

  void OnBaseScored(const Scored& scored);
  void OnAdapterChanged(const AdapterChanged& changed);
  void OnUpdateDone(const UpdateDone& done);
  void OnRefreshDone();
  // The piece of learning under way failed. The update itself reports its failure in UpdateDone.
  void OnLearningFailed(const absl::Status& status);

  // ---- Steering -----------------------------------------------------------------------------

  void Pause() { paused_ = true; }
  void Resume() { paused_ = false; }
  // FailedPrecondition where there is no adapter, and so comes first in every command.
  absl::Status Change(const AdaptationWishes& wishes);
  // Completes the chunk in progress now. FailedPrecondition when there is nothing in it to learn.
  absl::Status UpdateNow();
  // Gives up the chunk that UpdateNow completed: one not begun goes on being collected, one that is
  // being learned is skipped as soon as the row answers.
  void CancelUpdateNow();
  // The client's ResetWork is done.
  void OnReset(const AdapterChanged& changed);

  const AdaptationOptions& options() const { return options_; }
  bool paused() const { return paused_; }
  uint64_t adapter_version() const { return version_; }
  // Every token's NLL is wanted, whether or not the client asks.
  bool wants_scores() const { return options_.enabled() && options_.receipt; }

 private:
  enum class Phase { kCollecting, kScoringBase, kRollingBack, kCheckpointing, kUpdating };

  bool ChunkIsComplete() const;
  void BeginChunk();
  void JudgeChunk();
  void FinishChunk(UpdateDone result);
  void SkipChunk(const char* reason);
  void StartChunk();
  void AdapterReplaced(uint64_t version);
  UpdateDone Result(UpdateOutcome outcome, std::string reason) const;

  const int32_t window_tokens_;
  AdaptationOptions options_;
  AdaptationGate gate_;
  bool paused_ = false;

  uint64_t position_ = 0;
  uint64_t window_start_ = 0;
  TokenHistory history_;

  // The chunk in progress, or the complete one in hand.
  TokenSpan chunk_;
  bool complete_now_ = false;
  bool cancelled_ = false;
  uint64_t chunk_index_ = 0;
  Phase phase_ = Phase::kCollecting;
  std::optional<UpdateWork> update_;
  std::optional<UpdateEvent> receipt_;

  uint64_t version_ = 0;
  // Since the adapter was fresh.
  uint64_t learned_chunks_ = 0;
  int32_t updates_since_refresh_ = 0;
  bool refresh_due_ = false;
};

}  // namespace mayfly
