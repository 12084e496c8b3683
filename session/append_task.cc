#include "session/append_task.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/log.h"

namespace mayfly {
namespace {

float At(const std::vector<float>& values, size_t i) {
  return i < values.size() ? values[i] : std::numeric_limits<float>::quiet_NaN();
}

}  // namespace

absl::Status AppendTask::SetTokens(std::vector<TokenId> tokens) {
  const uint32_t skip = command_.skip_tokens;
  if (skip > tokens.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("skip_tokens is ", skip, ", the input has ", tokens.size(), " tokens"));
  }
  tokens_ = std::move(tokens);
  taken_ = reported_ = piece_begin_ = static_cast<int32_t>(skip);
  return absl::OkStatus();
}

PrefillWork AppendTask::NextPiece(uint64_t most, bool score) const {
  const size_t left = tokens_.size() - taken_;
  const auto begin = tokens_.begin() + taken_;
  const auto end = begin + static_cast<std::ptrdiff_t>(std::min<uint64_t>(most, left));
  return {.tokens = {begin, end}, .score = score || scored(), .score_base = command_.compare_base};
}

std::vector<HistoryToken> AppendTask::OnScored(const Scored& part) {
  auto taken = Take(piece_begin_ + part.tokens_done, part, part.adapter_version);
  if (part.done) piece_begin_ = taken_;
  return taken;
}

std::vector<HistoryToken> AppendTask::OnFailed(const WorkFailed& failed, uint64_t adapter_version) {
  auto taken = Take(piece_begin_ + failed.tokens_done, Scored{}, adapter_version);
  piece_begin_ = taken_;
  return taken;
}

std::string AppendTask::Taken() const {
  return absl::StrCat(taken_, " of ", tokens_.size(), " tokens were taken");
}

bool AppendTask::ReportIsDue() const {
  return command_.token_logprobs ? taken_ > reported_ : taken_ - reported_ >= kReportTokens;
}

AppendedEvent AppendTask::Report(bool done, int32_t window_position) {
  AppendedEvent event;
  event.done = done;
  event.tokens = taken_;
  event.window_position = window_position;
  event.scored_tokens = scored() ? scored_tokens_ : 0;
  if (scored()) event.nll = nll_;
  if (command_.compare_base) event.base_nll = base_nll_;
  event.token_logprobs = std::exchange(logprobs_, {});
  event.base_token_logprobs = std::exchange(base_logprobs_, {});
  reported_ = taken_;
  return event;
}

std::vector<HistoryToken> AppendTask::Take(int32_t end, const Scored& part,
                                           uint64_t adapter_version) {
  MAYFLY_CHECK(end <= static_cast<int32_t>(tokens_.size()));
  std::vector<HistoryToken> taken;
  for (size_t i = 0; taken_ < end; ++i, ++taken_) {
    const float logprob = At(part.logprobs, i);
    const float base_logprob = At(part.base_logprobs, i);
    taken.push_back({.id = tokens_[taken_],
                     .origin = TokenOrigin::kInput,
                     .learn = command_.learn,
                     .adapter_version = adapter_version,
                     .logprob = logprob,
                     .base_logprob = base_logprob});
    CountScore(logprob, base_logprob);
  }
  return taken;
}

void AppendTask::CountScore(float logprob, float base_logprob) {
  if (!std::isnan(logprob)) {
    ++scored_tokens_;
    nll_ -= logprob;
  }
  if (!std::isnan(base_logprob)) base_nll_ -= base_logprob;
  if (!command_.token_logprobs) return;
  logprobs_.push_back(logprob);
  if (command_.compare_base) base_logprobs_.push_back(base_logprob);
}

}  // namespace mayfly
