#include "client/resuming_session.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace mayfly {
namespace {

void Sleep(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

ResumeOptions Completed(ResumeOptions options) {
  if (!options.sleep) options.sleep = Sleep;
  if (options.seed == 0) options.seed = std::random_device()();
  return options;
}

// Another replica, or the same one a little later, may well take the session. A server that shuts
// down answers streams that reach it just then with CANCELLED.
bool IsWorthAnotherAttempt(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsResourceExhausted(status) ||
         absl::IsCancelled(status);
}

// What the answers to the parts of one append say together.
class AppendedSoFar {
 public:
  // `part` is of the append as a whole then; counts and sums of earlier servers are added.
  void Take(v1::Appended* part) {
    part->set_scored_tokens(part->scored_tokens() + before_.scored_tokens());
    if (before_.has_nll()) part->set_nll(part->nll() + before_.nll());
    if (before_.has_base_nll()) part->set_base_nll(part->base_nll() + before_.base_nll());
    AddPart(*part, &all_);
  }
  // The session has moved: what comes now counts from here.
  void Move() {
    before_ = all_;
    before_.clear_token_logprobs();
    before_.clear_base_token_logprobs();
  }
  const v1::Appended& all() const { return all_; }

 private:
  v1::Appended before_;
  v1::Appended all_;
};

void AddUsage(const v1::Usage& from, v1::Usage* to) {
  to->set_prompt_tokens(to->prompt_tokens() + from.prompt_tokens());
  to->set_generated_tokens(to->generated_tokens() + from.generated_tokens());
  to->set_trained_tokens(to->trained_tokens() + from.trained_tokens());
}

// `later` is the part of a generation that came behind `so_far`, which may be empty.
v1::Generated Joined(const v1::Generated& so_far, v1::Generated later) {
  AddUsage(so_far.usage(), later.mutable_usage());
  v1::Timings* timings = later.mutable_timings();
  if (so_far.usage().generated_tokens() > 0) {
    timings->set_queue_seconds(so_far.timings().queue_seconds());
    timings->set_time_to_first_token_seconds(so_far.timings().time_to_first_token_seconds());
  }
  timings->set_total_seconds(timings->total_seconds() + so_far.timings().total_seconds());
  return later;
}

}  // namespace

ResumingSession::ResumingSession(Connect connect, SessionStream::Listeners listeners,
                                 ResumeOptions options)
    : connect_(std::move(connect)),
      listeners_([&] {
        SessionStream::Listeners mine = std::move(listeners);
        mine.on_draining = [this, theirs = mine.on_draining](const v1::Draining& draining) {
          if (options_.enabled) token_ = draining.resume_token();
          if (theirs) theirs(draining);
        };
        return mine;
      }()),
      options_(Completed(std::move(options))),
      random_(options_.seed) {}

absl::StatusOr<std::unique_ptr<ResumingSession>> ResumingSession::Open(
    Connect connect, const v1::Open& open, SessionStream::Listeners listeners,
    ResumeOptions options, absl::string_view snapshot) {
  std::unique_ptr<ResumingSession> session(
      new ResumingSession(std::move(connect), std::move(listeners), std::move(options)));
  MAYFLY_RETURN_IF_ERROR(session->OpenOnce(open, snapshot));
  return session;
}

absl::Status ResumingSession::OpenOnce(const v1::Open& open, absl::string_view snapshot) {
  MAYFLY_ASSIGN_OR_RETURN(auto channel, connect_());
  MAYFLY_ASSIGN_OR_RETURN(std::shared_ptr<SessionStream> stream,
                          SessionStream::Open(std::move(channel), open, listeners_, snapshot));
  MutexLock lock(&mu_);
  stream_ = std::move(stream);
  return absl::OkStatus();
}

absl::StatusOr<v1::Appended> ResumingSession::Append(
    v1::Append append, const SessionStream::ProgressCallback& on_progress) {
  AppendedSoFar so_far;
  return Run<v1::Appended>([&](SessionStream& stream) -> absl::StatusOr<v1::Appended> {
    so_far.Move();
    append.set_skip_tokens(std::max(append.skip_tokens(), so_far.all().tokens()));
    const auto appended = stream.Append(append, [&](v1::Appended part) {
      so_far.Take(&part);
      if (on_progress) on_progress(part);
    });
    MAYFLY_RETURN_IF_ERROR(appended.status());
    return so_far.all();
  });
}

absl::StatusOr<v1::Appended> ResumingSession::AppendText(std::string text) {
  v1::Append append;
  append.set_text(std::move(text));
  return Append(std::move(append));
}

absl::StatusOr<v1::Generated> ResumingSession::Generate(
    v1::Generate generate, const SessionStream::DeltaCallback& on_delta) {
  v1::Generated so_far;
  uint32_t tokens = 0;
  const auto count = [&](const v1::Delta& delta) {
    tokens += static_cast<uint32_t>(delta.tokens_size());
    if (on_delta) on_delta(delta);
  };
  return Run<v1::Generated>([&](SessionStream& stream) -> absl::StatusOr<v1::Generated> {
    v1::Generate rest = generate;
    rest.set_continued_tokens(generate.continued_tokens() + tokens);
    if (tokens > 0 && tokens >= generate.max_tokens()) {
      so_far.set_finish_reason(v1::FINISH_REASON_LENGTH);
      return so_far;
    }
    rest.set_max_tokens(generate.max_tokens() - tokens);
    MAYFLY_ASSIGN_OR_RETURN(v1::Generated generated, stream.Generate(rest, count));
    so_far = Joined(so_far, std::move(generated));
    const bool cut = so_far.finish_reason() == v1::FINISH_REASON_CANCELLED && !CancelAsked();
    if (cut && WasHandedOver(absl::StatusCode::kCancelled)) {
      return absl::UnavailableError("the session was handed over");
    }
    return so_far;
  });
}

absl::StatusOr<v1::Adapted> ResumingSession::Adapt(v1::Adapt adapt) {
  return Run<v1::Adapted>([&](SessionStream& stream) { return stream.Adapt(adapt); });
}

absl::StatusOr<v1::Exported> ResumingSession::Export(const v1::Export& request,
                                                     const std::function<void()>& begin,
                                                     const SessionStream::ExportCallback& on_part) {
  return Run<v1::Exported>([&](SessionStream& stream) {
    begin();
    return stream.Export(request, on_part);
  });
}

absl::StatusOr<v1::Closed> ResumingSession::Finish() {
  return Run<v1::Closed>([](SessionStream& stream) { return stream.Finish(); });
}

absl::StatusOr<v1::Closed> ResumingSession::Close() {
  return Run<v1::Closed>([](SessionStream& stream) { return stream.Close(); });
}

absl::Status ResumingSession::Cancel() {
  std::shared_ptr<SessionStream> stream;
  {
    MutexLock lock(&mu_);
    cancel_asked_ = true;
    stream = stream_;
  }
  return stream->Cancel();
}

bool ResumingSession::ended() const { return token_.empty() && stream_->ended(); }

bool ResumingSession::CancelAsked() const {
  MutexLock lock(&mu_);
  return cancel_asked_;
}

template <typename Result>
absl::StatusOr<Result> ResumingSession::Run(
    const std::function<absl::StatusOr<Result>(SessionStream&)>& attempt) {
  {
    MutexLock lock(&mu_);
    cancel_asked_ = false;
  }
  while (true) {
    if (!token_.empty()) MAYFLY_RETURN_IF_ERROR(Move());
    const auto result = attempt(*stream_);
    if (result.ok() || !WasHandedOver(result.status().code())) return result;
  }
}

bool ResumingSession::WasHandedOver(absl::StatusCode code) {
  if (!options_.enabled) return false;
  const bool cancelled = code == absl::StatusCode::kCancelled && !CancelAsked();
  if (!cancelled && code != absl::StatusCode::kUnavailable) return false;
  // The token comes behind the answers to what ran.
  stream_->AwaitEnd().IgnoreError();
  return !token_.empty();
}

absl::Status ResumingSession::Move() {
  v1::Open open;
  open.set_resume_token(token_);
  double bound = options_.first_wait_seconds;
  double waited = 0;
  while (true) {
    const absl::Status status = OpenOnce(open);
    if (status.ok()) break;
    if (!IsWorthAnotherAttempt(status) || waited >= options_.give_up_after_seconds) {
      return absl::Status(status.code(), absl::StrCat("the session was handed over and could not ",
                                                      "be resumed: ", status.message()));
    }
    if (CancelAsked()) return absl::CancelledError("cancelled while the session moves");
    const double wait = std::uniform_real_distribution<double>(0, bound)(random_);
    options_.sleep(wait);
    waited += wait;
    bound = std::min(2 * bound, options_.longest_wait_seconds);
  }
  token_.clear();
  ++moves_;
  return absl::OkStatus();
}

}  // namespace mayfly
