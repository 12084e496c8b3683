#pragma once

// A client of one session without a server in between: sends commands and keeps what comes back.
// One thread.

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "session/session_manager.h"

namespace mayfly {

class SessionClient {
 public:
  explicit SessionClient(SessionManager* manager, const std::string& tenant = "tenant")
      : session_(manager->Create({tenant, "test"}, [wakes = wakes_] { ++*wakes; })) {}

  Session& session() { return *session_; }

  // Sends a command under a request id of its own, and returns that.
  uint64_t Send(SessionCommand command) {
    const uint64_t request_id = ++last_request_id_;
    session_->Handle(request_id, std::move(command));
    return request_id;
  }
  uint64_t Append(const std::string& text) {
    AppendCommand append;
    append.input = TextInput(text);
    return Send(append);
  }
  uint64_t Generate(uint32_t max_tokens) {
    GenerateCommand generate;
    generate.max_tokens = max_tokens;
    return Send(generate);
  }
  uint64_t Adapt(AdaptAction action) { return Send(AdaptCommand{action, {}}); }
  uint64_t Cancel(uint64_t target) { return Send(CancelCommand{target}); }
  uint64_t Close() { return Send(CloseCommand{}); }

  // Takes one event, or the final status; false when there is nothing to take.
  bool ReadOne() {
    Outbox::Item item = session_->outbox().Take();
    if (item.event) events_.push_back(*std::move(item.event));
    if (item.final_status) final_status_ = item.final_status;
    return item.event.has_value();
  }
  void ReadAll() {
    while (ReadOne()) {
    }
  }

  const std::vector<SessionEvent>& events() const { return events_; }
  const std::optional<absl::Status>& final_status() const { return final_status_; }
  int wakes() const { return *wakes_; }

  // Events of one kind, of all commands or of one.
  template <typename Body>
  std::vector<Body> All(std::optional<uint64_t> request_id = {}) const {
    std::vector<Body> found;
    for (const SessionEvent& event : events_) {
      const Body* body = std::get_if<Body>(&event.body);
      if (body && request_id.value_or(event.request_id) == event.request_id) found.push_back(*body);
    }
    return found;
  }
  // The error that answered this command; OK when there was none.
  absl::Status ErrorOf(uint64_t request_id) const {
    const auto errors = All<ErrorEvent>(request_id);
    return errors.empty() ? absl::OkStatus() : errors.front().status;
  }
  // All text generated so far.
  std::string Text() const {
    std::string text;
    for (const DeltaEvent& event : All<DeltaEvent>()) text += event.delta.text;
    return text;
  }

 private:
  // Its session's too, which may live longer.
  const std::shared_ptr<std::atomic<int>> wakes_ = std::make_shared<std::atomic<int>>(0);
  uint64_t last_request_id_ = 0;
  std::vector<SessionEvent> events_;
  std::optional<absl::Status> final_status_;
  std::shared_ptr<Session> session_;
};

}  // namespace mayfly
