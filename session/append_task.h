#pragma once

// One append under way: which of its tokens the row has taken, and what they scored. Owned by
// Session and guarded by its mutex; submits nothing itself.

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/types.h"
#include "session/token_history.h"
#include "session/types.h"

namespace mayfly {

class AppendTask {
 public:
  // A long append reports at least this often.
  static constexpr int32_t kReportTokens = 1024;

  explicit AppendTask(AppendCommand command) : command_(std::move(command)) {}

  const AppendCommand& command() const { return command_; }
  bool has_tokens() const { return !tokens_.empty(); }
  // All of the input's tokens. INVALID_ARGUMENT where more are to be skipped than there are.
  absl::Status SetTokens(std::vector<TokenId> tokens);

  // The next piece for the row, of at most `most` tokens. Scored if the client asks or `score`.
  PrefillWork NextPiece(uint64_t most, bool score) const;
  // Counts a part of the piece that the row has taken, and returns its tokens.
  std::vector<HistoryToken> OnScored(const Scored& part);
  // Counts what the row took of a piece that ended early.
  std::vector<HistoryToken> OnFailed(const WorkFailed& failed, uint64_t adapter_version);

  // "3 of 10 tokens were taken"
  std::string Taken() const;
  bool finished() const { return has_tokens() && taken_ == static_cast<int32_t>(tokens_.size()); }

  // Enough has happened since the last report for another.
  bool ReportIsDue() const;
  AppendedEvent Report(bool done, int32_t window_position);

 private:
  bool scored() const { return command_.score || command_.token_logprobs || command_.compare_base; }
  std::vector<HistoryToken> Take(int32_t end, const Scored& part, uint64_t adapter_version);
  void CountScore(float logprob, float base_logprob);

  AppendCommand command_;
  std::vector<TokenId> tokens_;
  int32_t taken_ = 0;
  // Where the piece under way began.
  int32_t piece_begin_ = 0;

  int32_t scored_tokens_ = 0;
  double nll_ = 0;
  double base_nll_ = 0;
  // Since the last report.
  int32_t reported_ = 0;
  std::vector<float> logprobs_;
  std::vector<float> base_logprobs_;
};

}  // namespace mayfly
