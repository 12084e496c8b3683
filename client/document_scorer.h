#pragma once

// A document being read through a session, every token scored before the session learns from it.
// Created by the command that reads, for one document; Read runs on the command's thread.

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/perplexity.h"
#include "client/resuming_session.h"

namespace mayfly::cli {

class DocumentScorer {
 public:
  struct Options {
    // Also score under the frozen base.
    bool compare_base = false;
    // Read this many tokens exactly, or to the end where the text has fewer; 0: to the end.
    uint32_t max_tokens = 0;
  };

  // `on_scores` is called each time there are more scores. The session outlives the scorer.
  DocumentScorer(ResumingSession& session, Options options, std::function<void()> on_scores);

  // Returns kCancelled after Stop; the scores until then stay.
  absl::Status Read(absl::string_view text);
  // Makes Read return soon. Any thread.
  void Stop();

  const TokenScores& scores() const { return scores_; }
  // The part of the reading that is done, estimated, in [0, 1].
  double fraction() const;

 private:
  absl::Status AppendPiece(absl::string_view piece);
  void AddScores(const v1::Appended& part);
  bool has_enough() const;
  // Short towards the end, so that little is read beyond max_tokens.
  size_t NextPieceBytes() const;

  ResumingSession& session_;
  const Options options_;
  const std::function<void()> on_scores_;

  // Used by the command's thread.
  TokenScores scores_;
  size_t text_bytes_ = 0;
  // Of the finished pieces; what the estimate of bytes per token rests on.
  size_t read_bytes_ = 0;
  size_t read_tokens_ = 0;

  std::atomic<bool> stopped_ = false;
};

}  // namespace mayfly::cli
