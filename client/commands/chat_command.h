#pragma once

// `mayfly chat`: a conversation, line by line, with a model that learns it as it goes.

#include <string>
#include <vector>

#include "client/command.h"
#include "client/command_session.h"
#include "client/session_flags.h"

namespace mayfly::cli {

class ChatCommand final : public Command {
 public:
  ChatCommand();

  std::vector<FlagGroup> Flags() override;
  absl::Status SetArguments(const std::vector<std::string>& arguments) override;
  absl::Status Run(Environment& env) override;

 private:
  // Both return an error when the conversation cannot go on.
  absl::Status Answer(ResumingSession& session, const std::string& line, Environment& env);
  absl::Status Steer(ResumingSession& session, const std::string& line, Environment& env);
  // Tells of a refused command; the error comes back if it was the session's end.
  absl::Status Tell(const absl::Status& status, const ResumingSession& session,
                    Environment& env) const;
  void WriteNotes(const v1::Generated& generated, Environment& env);

  std::string system_;
  v1::Open open_;
  v1::Generate generate_;
  KeepFlags keep_;
  OutputFlags output_;

  UpdateCount updates_;
  // Told after the answer that they arrived in.
  std::vector<v1::Update> new_updates_;
  bool greeted_ = false;
};

}  // namespace mayfly::cli
