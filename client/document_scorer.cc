#include "client/document_scorer.h"

#include <algorithm>
#include <utility>

#include "client/command_session.h"
#include "client/document.h"
#include "engine/base/status_macros.h"

namespace mayfly::cli {
namespace {

// Rather many, so that the last piece but one seldom falls short.
constexpr size_t kBytesPerTokenAtMost = 6;
// English text under today's vocabularies, until the first piece has been counted.
constexpr double kBytesPerTokenAtFirst = 4.3;
constexpr size_t kMinPieceBytes = 256;

}  // namespace

DocumentScorer::DocumentScorer(ResumingSession& session, Options options,
                               std::function<void()> on_scores)
    : session_(session), options_(options), on_scores_(std::move(on_scores)) {}

absl::Status DocumentScorer::Read(absl::string_view text) {
  text_bytes_ = text.size();
  while (!text.empty() && !has_enough()) {
    if (stopped_) return absl::CancelledError("interrupted");
    const absl::string_view piece = FirstPiece(text, NextPieceBytes());
    MAYFLY_RETURN_IF_ERROR(AppendPiece(piece));
    text.remove_prefix(piece.size());
    read_bytes_ += piece.size();
    read_tokens_ = scores_.adapter.size();
  }
  return absl::OkStatus();
}

void DocumentScorer::Stop() {
  stopped_ = true;
  session_.Cancel().IgnoreError();
}

double DocumentScorer::fraction() const {
  const double bytes_per_token =
      read_tokens_ > 0 ? static_cast<double>(read_bytes_) / static_cast<double>(read_tokens_)
                       : kBytesPerTokenAtFirst;
  double expected_tokens = static_cast<double>(text_bytes_) / bytes_per_token;
  if (options_.max_tokens > 0) {
    expected_tokens = std::min<double>(expected_tokens, options_.max_tokens);
  }
  return std::min(static_cast<double>(scores_.adapter.size()) / expected_tokens, 1.0);
}

absl::Status DocumentScorer::AppendPiece(absl::string_view piece) {
  v1::Append append;
  append.set_text(std::string(piece));
  append.set_score(true);
  append.set_token_logprobs(true);
  append.set_compare_base(options_.compare_base);
  const absl::Status status =
      session_.Append(std::move(append), [this](const v1::Appended& part) { AddScores(part); })
          .status();
  // The rest of the last piece was cancelled as soon as there were enough tokens.
  if (absl::IsCancelled(status) && has_enough()) return absl::OkStatus();
  MAYFLY_RETURN_IF_ERROR(status);
  if (options_.compare_base && scores_.base.size() != scores_.adapter.size()) {
    return absl::InternalError("the server sent fewer scores of the base than of the adapter");
  }
  return absl::OkStatus();
}

void DocumentScorer::AddScores(const v1::Appended& part) {
  if (part.token_logprobs().empty() || has_enough()) return;
  const auto add = [this](const auto& logprobs, std::vector<float>* scores) {
    scores->insert(scores->end(), logprobs.begin(), logprobs.end());
    if (options_.max_tokens > 0 && scores->size() > options_.max_tokens) {
      scores->resize(options_.max_tokens);
    }
  };
  add(part.token_logprobs(), &scores_.adapter);
  add(part.base_token_logprobs(), &scores_.base);
  if (has_enough() && !part.done()) session_.Cancel().IgnoreError();
  on_scores_();
}

bool DocumentScorer::has_enough() const {
  return options_.max_tokens > 0 && scores_.adapter.size() >= options_.max_tokens;
}

size_t DocumentScorer::NextPieceBytes() const {
  if (options_.max_tokens == 0) return kMaxPieceBytes;
  const size_t remaining = options_.max_tokens - scores_.adapter.size();
  return std::clamp(remaining * kBytesPerTokenAtMost, kMinPieceBytes, kMaxPieceBytes);
}

}  // namespace mayfly::cli
