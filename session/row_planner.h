#pragma once

// Plans what one row must do besides its client's commands: score the frozen base, keep or bring
// back a version, learn a chunk, compute its window again. Knows the row's stream, its window, the
// chunk in hand and the tokens collected behind it; submits nothing itself. Owned by Session and
// guarded by its mutex.
//
// A chunk that is taken in hand goes through these phases, the ones in brackets where options ask
// for them: [score the base] -> roll back, or [checkpoint] -> update. Each yields exactly one
// receipt. In parallel mode tokens are collected meanwhile; horizon() bounds by how many chunks.
//
// While the engine defers learning, complete chunks wait and the stream goes on. Those that waited
// are learned together, by one update; those that would wait for too long are skipped.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
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
  // Chunks that one update may learn together.
  static constexpr int32_t kMaxMergedChunks = 4;

  // `max_update_tokens` is the engine's bound on one training pass; 0: none.
  RowPlanner(const AdaptationOptions& options, int32_t window_tokens,
             int32_t max_update_tokens = 0);

  // ---- Going on elsewhere -------------------------------------------------------------------

  // All of it between two chunks.
  struct State {
    AdaptationOptions options;
    bool paused = false;
    uint64_t position = 0;
    uint64_t window_start = 0;
    // The newest tokens, up to `position`.
    std::vector<HistoryToken> history;
    uint64_t chunk_begin = 0;
    uint64_t chunk_index = 0;
    uint64_t deferred_chunks = 0;
    uint64_t version = 0;
    uint64_t learned_chunks = 0;
    int32_t updates_since_refresh = 0;
    bool refresh_due = false;
    double mean_excess = 0;
  };
  // REQUIRES: no chunk is in hand.
  State Save() const;
  // INVALID_ARGUMENT where it is not a state of such a planner.
  static absl::Status Check(const State& state, int32_t window_tokens);
  // REQUIRES: Check(state, window_tokens).ok().
  RowPlanner(const State& state, int32_t window_tokens, int32_t max_update_tokens);

  // ---- The stream ---------------------------------------------------------------------------

  // The row took this token.
  void Add(const HistoryToken& token);
  // Tokens of the stream so far.
  uint64_t position() const { return position_; }
  int32_t window_position() const { return static_cast<int32_t>(position_ - window_start_); }
  // The stream position that the row may grow to before something here must happen first: the end
  // of the window, or of the last chunk that may be collected while an older one is not learned.
  // Never moves back.
  uint64_t horizon() const;

  // ---- What is due --------------------------------------------------------------------------

  // The next piece of learning; nothing while no chunk is complete, while chunks wait because the
  // engine is `deferring`, or while the window must be computed again first (parallel mode only).
  // Its answer comes before the next call.
  std::optional<RowWork> NextLearning(bool deferring);
  // The window must be computed again before the row takes another token (in parallel mode: before
  // it learns another chunk). Its answer comes before the next call; nothing is learned meanwhile.
  std::optional<RefreshWork> NextRefresh();
  // The receipt of a chunk that has just been finished with, once.
  std::optional<UpdateEvent> TakeReceipt();

  // A chunk is in hand.
  bool learning() const { return phase_ != Phase::kCollecting; }
  // The chunk that UpdateNow completed is not finished with.
  bool updating_now() const { return complete_now_; }
  // Complete chunks that are not finished with, the one in hand included.
  int32_t lag_chunks() const;
  // What the engine's wish to defer has cost since the last call, in chunks.
  struct Toll {
    uint64_t deferred = 0;
    uint64_t skipped = 0;
  };
  Toll TakeToll() { return std::exchange(toll_, {}); }

  // ---- Answers ------------------------------------------------------------------------------

  void OnBaseScored(const Scored& scored);
  void OnAdapterChanged(const AdapterChanged& changed);
  void OnUpdateDone(const UpdateDone& done);
  void OnRefreshDone();
  // It stays due: the row is not whole.
  void OnRefreshFailed() { refresh_due_ = true; }
  // The piece of learning under way failed. The update itself reports its failure in UpdateDone.
  void OnLearningFailed(const absl::Status& status);

  // ---- Steering (while no chunk is in hand, but for CancelUpdateNow) ------------------------

  void Pause() { paused_ = true; }
  void Resume() { paused_ = false; }
  // FailedPrecondition where there is no adapter, and so comes first in every command.
  absl::Status Change(const AdaptationWishes& wishes);
  // Learns all that has been collected, whole chunks or not, now and whatever the engine defers.
  // FailedPrecondition when there is nothing in it to learn.
  absl::Status UpdateNow();
  // Gives up what UpdateNow asked for: tokens not in hand go on being collected, a chunk that is
  // being learned is skipped as soon as the row answers.
  void CancelUpdateNow();
  // The client's ResetWork is done.
  void OnReset(const AdapterChanged& changed);

  const AdaptationOptions& options() const { return options_; }
  bool parallel() const { return options_.enabled() && options_.mode == UpdateMode::kParallel; }
  bool paused() const { return paused_; }
  uint64_t adapter_version() const { return version_; }
  // Every token's NLL is wanted, whether or not the client asks.
  bool wants_scores() const { return options_.enabled() && options_.receipt; }

 private:
  enum class Phase { kCollecting, kScoringBase, kRollingBack, kCheckpointing, kUpdating };

  uint64_t window_end() const { return window_start_ + window_tokens_; }
  // Where the oldest token that is not finished with lies.
  uint64_t OldestUnlearned() const { return learning() ? chunk_.begin : chunk_begin_; }
  // The end of the chunks that may be collected, whatever the window holds.
  uint64_t LagBound() const;
  uint64_t CompleteChunks() const;
  bool ChunkIsComplete() const;
  // Complete chunks are not to be begun.
  bool Waits() const { return deferring_ && !complete_now_ && !paused_; }
  // Chunks that may wait, to be learned together.
  uint64_t MaxMergedChunks() const;
  // Where the window would start if it were computed again now.
  uint64_t RefreshedStart() const;
  bool RefreshIsDue() const;

  void Defer();
  void TakeChunk(uint64_t end);
  uint64_t EndOfNextChunk() const;
  void BeginChunk();
  void JudgeChunk();
  void FinishChunk(UpdateDone result);
  void SkipChunk(const char* reason);
  void DropHistory();
  void StartAfresh();
  void AdapterReplaced(uint64_t version);
  UpdateDone Result(UpdateOutcome outcome, std::string reason) const;

  const int32_t window_tokens_;
  const int32_t max_update_tokens_;
  AdaptationOptions options_;
  AdaptationGate gate_;
  bool paused_ = false;

  uint64_t position_ = 0;
  uint64_t window_start_ = 0;
  // Back to the context of the oldest token that is not finished with.
  TokenHistory history_;

  // The chunk in hand, unless collecting. Several chunks that are learned together count as one.
  TokenSpan chunk_;
  Phase phase_ = Phase::kCollecting;
  std::optional<UpdateWork> update_;
  bool cancelled_ = false;
  int32_t lag_when_begun_ = 0;
  std::optional<UpdateEvent> receipt_;

  // What is collected: [chunk_begin_, position_) lies in no chunk in hand.
  uint64_t chunk_begin_ = 0;
  uint64_t chunk_index_ = 0;
  bool complete_now_ = false;
  // The engine's wish when it was last asked.
  bool deferring_ = false;
  // Chunks from OldestUnlearned() on that the engine's wish made wait: they move the horizon on and
  // are learned together.
  uint64_t deferred_chunks_ = 0;
  Toll toll_;

  uint64_t version_ = 0;
  // Updates applied since the adapter was fresh.
  uint64_t learned_chunks_ = 0;
  int32_t updates_since_refresh_ = 0;
  bool refresh_due_ = false;
  // Where the refresh under way begins; tokens that come meanwhile do not move it.
  uint64_t refresh_begin_ = 0;
};

}  // namespace mayfly
