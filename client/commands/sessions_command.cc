#include "client/commands/sessions_command.h"

#include <algorithm>
#include <array>
#include <chrono>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/command_session.h"
#include "client/human_format.h"
#include "client/json_lines.h"
#include "engine/base/mutex.h"
#include "engine/base/status_macros.h"

namespace mayfly::cli {
namespace {

constexpr auto kTimeout = std::chrono::seconds(10);
constexpr char kClearScreen[] = "\x1b[H\x1b[2J";

// Set by an interrupt; waited for in between.
class Stop {
 public:
  void Set() {
    MutexLock lock(&mu_);
    set_ = true;
    changed_.NotifyAll();
  }
  // Waits for `seconds` at most.
  bool WaitFor(uint32_t seconds) {
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
    MutexLock lock(&mu_);
    while (!set_) {
      const auto left = end - std::chrono::steady_clock::now();
      if (left <= left.zero()) break;
      changed_.WaitFor(&mu_, left);
    }
    return set_;
  }

 private:
  Mutex mu_;
  CondVar changed_;
  bool set_ ABSL_GUARDED_BY(mu_) = false;
};

template <typename Method, typename Request, typename Response>
absl::Status Call(v1::AdminService::Stub& stub, Method method, const Request& request,
                  Response* response, const std::string& address) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kTimeout);
  const grpc::Status status = (stub.*method)(&context, request, response);
  return status.ok() ? absl::OkStatus() : ExplainStatus(ToAbslStatus(status), address);
}

constexpr size_t kColumns = 10;
using Cells = std::array<std::string, kColumns>;

Cells Header() {
  return {"SESSION", "TENANT", "LABEL", "STATE", "RUNS", "AGE", "IDLE", "TOKENS", "UPDATES", "LAG"};
}

// Labels are the clients': a terminal must not obey them.
Cells Row(const v1::SessionInfo& info) {
  return {info.session_id(),
          info.tenant(),
          absl::Utf8SafeCEscape(info.label()),
          ToJson(info).value("state", ""),
          info.running_command(),
          Elapsed(info.age_seconds()),
          Elapsed(info.idle_seconds()),
          Thousands(info.stream_position()),
          absl::StrCat(info.updates_applied(), "/", info.updates()),
          absl::StrCat(info.lag_chunks())};
}

// What is empty is a dash, so that programs can count columns.
std::string Table(const v1::ListSessionsResponse& sessions) {
  std::vector<Cells> rows = {Header()};
  for (const v1::SessionInfo& info : sessions.sessions()) rows.push_back(Row(info));
  std::array<size_t, kColumns> widths{};
  for (Cells& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      if (row[i].empty()) row[i].push_back('-');
      widths[i] = std::max(widths[i], row[i].size());
    }
  }
  std::string table;
  for (const Cells& row : rows) {
    for (size_t i = 0; i + 1 < row.size(); ++i) {
      absl::StrAppendFormat(&table, "%-*s  ", static_cast<int>(widths[i]), row[i]);
    }
    absl::StrAppend(&table, row.back(), "\n");
  }
  return table;
}

}  // namespace

std::vector<FlagGroup> SessionsCommand::Flags() {
  return {
      {"Watching",
       {SwitchFlag("watch", "show them again and again, until interrupted", &watch_),
        NumberFlag("interval", "seconds between two looks; 2 unless given", &interval_seconds_)}},
      OutputFlagGroup(&output_)};
}

absl::Status SessionsCommand::SetArguments(const std::vector<std::string>& arguments) {
  if (arguments.empty()) return absl::OkStatus();
  if (arguments.size() != 2 || arguments[0] != "end" || watch_) {
    return absl::InvalidArgumentError("want no arguments, or: end ID");
  }
  end_id_ = arguments[1];
  return absl::OkStatus();
}

absl::Status SessionsCommand::Run(Environment& env) {
  MAYFLY_ASSIGN_OR_RETURN(const auto channel, Connect(output_, env));
  const auto stub = v1::AdminService::NewStub(channel);
  if (!end_id_.empty()) return End(*stub, env);
  return watch_ ? Watch(*stub, env) : Show(*stub, env);
}

absl::Status SessionsCommand::End(Stub& stub, Environment& env) const {
  v1::TerminateSessionRequest request;
  request.set_session_id(end_id_);
  v1::TerminateSessionResponse response;
  MAYFLY_RETURN_IF_ERROR(
      Call(stub, &Stub::TerminateSession, request, &response, ServerAddress(output_, env)));
  if (output_.json) {
    WriteJsonLine(env.out, "ended", Json{{"session_id", end_id_}});
  } else {
    env.out << "ended session " << end_id_ << std::endl;
  }
  return absl::OkStatus();
}

absl::Status SessionsCommand::Show(Stub& stub, Environment& env) const {
  v1::ListSessionsResponse sessions;
  MAYFLY_RETURN_IF_ERROR(Call(stub, &Stub::ListSessions, v1::ListSessionsRequest(), &sessions,
                              ServerAddress(output_, env)));
  if (output_.json) {
    for (const v1::SessionInfo& info : sessions.sessions()) {
      WriteJsonLine(env.out, "session", ToJson(info));
    }
    return absl::OkStatus();
  }
  if (watch_ && env.out_is_terminal) env.out << kClearScreen;
  env.out << Table(sessions) << std::flush;
  return absl::OkStatus();
}

absl::Status SessionsCommand::Watch(Stub& stub, Environment& env) const {
  Stop stop;
  const Interrupts::Scope scope(env.interrupts, [&stop] { stop.Set(); });
  do {
    MAYFLY_RETURN_IF_ERROR(Show(stub, env));
  } while (!stop.WaitFor(interval_seconds_));
  return absl::OkStatus();
}

}  // namespace mayfly::cli
