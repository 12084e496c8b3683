// Streams against a running server, all from this process: what clients see of it. Each session
// reads an excerpt of its own of a book, then all generate at once until so many tokens have
// arrived; no stream ends before that, so that the batch stays full. Prints one JSON line.
//
// With --learning every chunk is learned as it completes. Prompts of different lengths
// (--prompt_step) keep the sessions from completing theirs at the same time. Without it learning is
// paused: adapters are computed with, but stay as they are.

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "client/channel.h"
#include "client/document.h"
#include "client/flags.h"
#include "client/session_flags.h"
#include "client/session_stream.h"
#include "engine/base/clock.h"
#include "engine/base/mutex.h"
#include "engine/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace mayfly {
namespace {

struct Flags {
  std::string server;
  std::string book = "docs/demo/the-lawton-girl.txt";
  uint32_t sessions = 8;
  uint32_t prompt_tokens = 64;
  uint32_t prompt_step = 0;
  uint32_t tokens = 1536;
  bool learning = false;
  v1::Open open;
};

// Counts what arrives at all streams and says when it was enough.
class Goal {
 public:
  explicit Goal(int64_t tokens) : left_(tokens) {}

  void Arrived(int64_t tokens) {
    MutexLock lock(&mu_);
    left_ -= tokens;
    if (left_ <= 0) reached_.NotifyAll();
  }
  // A stream has ended, which none does before the goal unless it fails.
  void GiveUp() { Arrived(kMoreThanAnyGoal); }
  void Wait() {
    MutexLock lock(&mu_);
    while (left_ > 0) reached_.Wait(&mu_);
  }

 private:
  static constexpr int64_t kMoreThanAnyGoal = int64_t{1} << 40;

  Mutex mu_;
  CondVar reached_;
  int64_t left_ ABSL_GUARDED_BY(mu_);
};

// One client's session; a thread of its own generates.
class Client {
 public:
  absl::Status Open(const std::string& server, v1::Open open, uint32_t index) {
    open.set_seed(index);
    SessionStream::Listeners listeners;
    listeners.on_update = [this](const v1::Update& update) {
      if (update.outcome() == v1::UPDATE_OUTCOME_APPLIED) learned_ += update.tokens();
    };
    MAYFLY_ASSIGN_OR_RETURN(const auto channel, CreateChannel({.address = server}));
    MAYFLY_ASSIGN_OR_RETURN(session_, SessionStream::Open(channel, open, std::move(listeners)));
    return absl::OkStatus();
  }

  absl::Status PauseLearning() {
    v1::Adapt adapt;
    adapt.set_action(v1::ADAPT_ACTION_PAUSE);
    return session_->Adapt(adapt).status();
  }

  // Appends from `text` until the session holds `tokens`, give or take a word.
  absl::Status Read(absl::string_view text, uint32_t tokens) {
    // Fewer bytes than the tokens that are left have, so that the last piece is a small one.
    constexpr size_t kBytesPerToken = 3, kWord = 8;
    uint32_t held = 0;
    while (held < tokens) {
      const absl::string_view piece =
          cli::FirstPiece(text, std::max(kWord, (tokens - held) * kBytesPerToken));
      MAYFLY_ASSIGN_OR_RETURN(const v1::Appended appended,
                              session_->AppendText(std::string(piece)));
      held += appended.tokens();
      text.remove_prefix(piece.size());
    }
    return absl::OkStatus();
  }

  // Until the first chunk is learned. Asks again and again, since events are read by commands.
  absl::Status AwaitFirstUpdate() {
    v1::Adapt adapt;
    adapt.set_action(v1::ADAPT_ACTION_RESUME);  // changes nothing
    while (true) {
      MAYFLY_ASSIGN_OR_RETURN(const v1::Adapted adapted, session_->Adapt(adapt));
      if (adapted.adapter_version() > 0) return absl::OkStatus();
    }
  }

  void StartGenerating(const Clock* clock, Goal* goal) {
    learned_ = 0;
    thread_ = std::thread([=, this] {
      v1::Generate generate;
      generate.set_max_tokens(16384);
      generate.set_ignore_eos(true);
      generate.mutable_sampling()->set_temperature(1);
      status_ = session_
                    ->Generate(generate,
                               [&](const v1::Delta& delta) {
                                 if (delta.tokens().empty()) return;
                                 arrivals_.push_back({clock->Now(), delta.tokens_size()});
                                 goal->Arrived(delta.tokens_size());
                               })
                    .status();
      goal->GiveUp();
    });
  }

  // Seconds between deltas until `end`; the last is cut short by it.
  void AddGaps(TimePoint end, std::vector<double>* gaps) const {
    for (size_t i = 0; i < arrivals_.size(); ++i) {
      const TimePoint next = i + 1 < arrivals_.size() ? arrivals_[i + 1].time : end;
      if (arrivals_[i].time < end)
        gaps->push_back(Seconds(std::min(next, end) - arrivals_[i].time));
    }
  }

  int64_t TokensUntil(TimePoint end) const {
    int64_t tokens = 0;
    for (const Arrival& arrival : arrivals_) {
      if (arrival.time <= end) tokens += arrival.tokens;
    }
    return tokens;
  }

  absl::Status Stop() {
    session_->Cancel().IgnoreError();
    thread_.join();
    MAYFLY_RETURN_IF_ERROR(status_);
    return session_->Close().status();
  }

  // Tokens of the updates that were applied since StartGenerating.
  int64_t learned() const { return learned_; }

 private:
  struct Arrival {
    TimePoint time;
    int64_t tokens;
  };

  std::unique_ptr<SessionStream> session_;
  std::thread thread_;
  // Used by the thread that runs the session's commands, then by the one that joined it.
  absl::Status status_;
  std::vector<Arrival> arrivals_;
  // Read while the other thread generates.
  std::atomic<int64_t> learned_ = 0;
};

// The value that `share` of the sorted values do not exceed (nearest rank).
double Percentile(const std::vector<double>& sorted, double share) {
  return sorted[static_cast<size_t>(share * static_cast<double>(sorted.size() - 1) + 0.5)];
}

absl::StatusOr<nlohmann::json> Measure(const Flags& flags) {
  const SteadyClock clock;
  MAYFLY_ASSIGN_OR_RETURN(std::string book, cli::ReadDocument(flags.book, std::cin));
  book += book;  // the last session reads on at its beginning
  std::vector<std::unique_ptr<Client>> clients;
  for (uint32_t i = 0; i < flags.sessions; ++i) {
    clients.push_back(std::make_unique<Client>());
    MAYFLY_RETURN_IF_ERROR(clients[i]->Open(flags.server, flags.open, i));
    if (!flags.learning) MAYFLY_RETURN_IF_ERROR(clients[i]->PauseLearning());
    const size_t begin = book.find('\n', i * (book.size() / 2 / flags.sessions));
    MAYFLY_RETURN_IF_ERROR(clients[i]->Read(absl::string_view(book).substr(begin),
                                            flags.prompt_tokens + i * flags.prompt_step));
  }

  // In mode parallel what was read may still be waiting to be learned.
  for (const auto& client : clients) {
    if (flags.learning) MAYFLY_RETURN_IF_ERROR(client->AwaitFirstUpdate());
  }

  Goal goal(flags.tokens);
  const TimePoint begin = clock.Now();
  for (const auto& client : clients) client->StartGenerating(&clock, &goal);
  goal.Wait();
  const TimePoint end = clock.Now();

  int64_t tokens = 0, learned = 0;
  for (const auto& client : clients) learned += client->learned();
  std::vector<double> gaps;
  for (const auto& client : clients) {
    MAYFLY_RETURN_IF_ERROR(client->Stop());
    tokens += client->TokensUntil(end);
    client->AddGaps(end, &gaps);
  }
  if (tokens < flags.tokens) return absl::InternalError("a stream ended before the goal");
  std::sort(gaps.begin(), gaps.end());
  return nlohmann::json{{"tokens", tokens},
                        {"seconds", Seconds(end - begin)},
                        {"tokens_per_second", static_cast<double>(tokens) / Seconds(end - begin)},
                        {"learned_tokens", learned},
                        {"gap_p50_seconds", Percentile(gaps, 0.5)},
                        {"gap_p99_seconds", Percentile(gaps, 0.99)},
                        {"gap_max_seconds", gaps.back()}};
}

absl::Status Run(const std::vector<std::string>& arguments) {
  Flags flags;
  const std::vector<cli::FlagGroup> groups = {
      {"Bench",
       {cli::TextFlag("server", "ADDR", "the server to measure", &flags.server),
        cli::TextFlag("book", "FILE", "what the sessions read", &flags.book),
        cli::NumberFlag("sessions", "streams at once", &flags.sessions),
        cli::NumberFlag("prompt_tokens", "tokens the first session reads", &flags.prompt_tokens),
        cli::NumberFlag("prompt_step", "and how many more each further one", &flags.prompt_step),
        cli::NumberFlag("tokens", "tokens that all generate together", &flags.tokens),
        cli::SwitchFlag("learning", "learn while generating", &flags.learning)}},
      cli::AdaptationFlagGroup(flags.open.mutable_adaptation())};
  MAYFLY_ASSIGN_OR_RETURN(const std::vector<std::string> rest, cli::ParseFlags(groups, arguments));
  if (!rest.empty() || flags.server.empty() || flags.sessions == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("usage: service_bench --server ADDR [flags]\n", cli::FlagHelp(groups)));
  }
  MAYFLY_ASSIGN_OR_RETURN(const nlohmann::json result, Measure(flags));
  std::cout << result.dump() << std::endl;
  return absl::OkStatus();
}

}  // namespace
}  // namespace mayfly

int main(int argc, char** argv) {
  const absl::Status status = mayfly::Run(std::vector<std::string>(argv + 1, argv + argc));
  if (status.ok()) return 0;
  std::fprintf(stderr, "service_bench: %s\n", std::string(status.message()).c_str());
  return 1;
}
