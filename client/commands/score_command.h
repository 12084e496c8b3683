#pragma once

// `mayfly score`: reads a document through a session and reports perplexity, with the adapter that
// learns it and, if asked, with the frozen base beside it; then may let the adapted model go on.

#include <memory>
#include <string>
#include <vector>

#include "client/command.h"
#include "client/command_session.h"
#include "client/document_scorer.h"
#include "client/progress_bar.h"
#include "client/score_report.h"
#include "client/session_flags.h"

namespace mayfly::cli {

class ScoreCommand final : public Command {
 public:
  std::vector<FlagGroup> Flags() override;
  absl::Status SetArguments(const std::vector<std::string>& arguments) override;
  absl::Status Run(Environment& env) override;

 private:
  // What one run works with.
  struct Reading {
    Environment& env;
    std::unique_ptr<ResumingSession> session;
    ProgressBar bar;
    ScoreResult result;
    size_t chunks_written = 0;
  };

  absl::Status Open(Reading& reading);
  absl::Status Read(Reading& reading, const std::string& text);
  // Lets the model continue the text in the same session.
  absl::Status Continue(Reading& reading);

  void OnUpdate(Reading& reading, const v1::Update& update) const;
  void OnScores(Reading& reading, const DocumentScorer& scorer) const;
  // Writes the chunks that are complete, and at the end of the document the one that is not.
  void WriteChunks(Reading& reading, const TokenScores& scores, bool at_end) const;

  std::string path_;
  DocumentScorer::Options scoring_;
  bool chunk_report_ = false;
  v1::Open open_;
  // max_tokens 0: the text is not continued.
  v1::Generate generate_;
  KeepFlags keep_;
  OutputFlags output_;
};

}  // namespace mayfly::cli
