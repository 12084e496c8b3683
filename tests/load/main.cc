// mayfly_load: puts a server under the load of a scenario and reports what its clients saw.

#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "client/document.h"
#include "client/flags.h"
#include "client/session_stream.h"
#include "engine/base/loopback.h"
#include "engine/base/status_macros.h"
#include "grpcpp/client_context.h"
#include "mayfly/v1/inference_service.grpc.pb.h"
#include "tests/load/connection.h"
#include "tests/load/harness.h"
#include "tests/load/live_view.h"
#include "tests/load/report_html.h"
#include "tests/load/report_json.h"
#include "tests/load/report_text.h"

namespace mayfly::load {
namespace {

constexpr int kExitDone = 0, kExitFailed = 1, kExitBadUsage = 2;
constexpr uint32_t kMaxTrials = 30;

struct Flags {
  std::string scenario_file;
  ConnectionFlags connection;
  std::string http_server;
  std::string json_file;
  std::string html_file;
  std::string seed;
  bool find_capacity = false;
  uint32_t max_trials = 10;
  bool require_slo = false;
  bool help = false;
};

std::vector<cli::FlagGroup> FlagGroups(Flags* flags) {
  return {
      {"Run",
       {cli::TextFlag("seed", "N", "instead of the scenario's", &flags->seed),
        cli::SwitchFlag("find_capacity", "search the highest rate of sessions that keeps the SLO",
                        &flags->find_capacity),
        cli::NumberFlag("max_trials", "rates to try at most (10)", &flags->max_trials),
        cli::SwitchFlag("require_slo", "exit 1 when the SLO was missed", &flags->require_slo)}},
      ConnectionFlagGroup(&flags->connection),
      {"Output",
       {cli::TextFlag("http_server", "ADDR", "its HTTP port, whose metrics go into the report",
                      &flags->http_server),
        cli::TextFlag("json", "FILE", "write the report as JSON; - is standard output",
                      &flags->json_file),
        cli::TextFlag("html", "FILE", "write the report as a page", &flags->html_file),
        cli::SwitchFlag("help", "this text", &flags->help)}}};
}

absl::StatusOr<Flags> ParseArguments(const std::vector<std::string>& arguments) {
  Flags flags;
  if (const char* server = std::getenv("MAYFLY_SERVER")) flags.connection.server.address = server;
  MAYFLY_ASSIGN_OR_RETURN(const std::vector<std::string> rest,
                          cli::ParseFlags(FlagGroups(&flags), arguments));
  if (flags.help) return flags;
  if (rest.size() != 1) return absl::InvalidArgumentError("name one scenario file");
  flags.scenario_file = rest[0];
  if (flags.max_trials == 0 || flags.max_trials > kMaxTrials) {
    return absl::InvalidArgumentError(
        absl::StrCat("--max_trials takes 1 to ", kMaxTrials, ", not ", flags.max_trials));
  }
  if (!flags.http_server.empty() && !flags.connection.allow_remote &&
      !IsLoopback(flags.http_server)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--http_server ", flags.http_server, " needs --allow_remote"));
  }
  return flags;
}

absl::StatusOr<Scenario> ReadScenario(const Flags& flags) {
  MAYFLY_ASSIGN_OR_RETURN(const std::string json, cli::ReadDocument(flags.scenario_file, std::cin));
  absl::StatusOr<Scenario> scenario = ParseScenario(json);
  if (!scenario.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(flags.scenario_file, ": ", scenario.status().message()));
  }
  if (!flags.seed.empty() && !absl::SimpleAtoi(flags.seed, &scenario->seed)) {
    return absl::InvalidArgumentError(
        absl::StrCat("--seed takes a whole number, not '", flags.seed, "'"));
  }
  if (flags.find_capacity && !scenario->arrivals.open_loop()) {
    return absl::InvalidArgumentError(
        absl::StrCat(flags.scenario_file, ": --find_capacity needs arrivals.sessions_per_second"));
  }
  return scenario;
}

absl::StatusOr<v1::GetServerInfoResponse> ServerInfo(
    const std::shared_ptr<grpc::Channel>& channel) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
  v1::GetServerInfoResponse info;
  const auto stub = v1::InferenceService::NewStub(channel);
  MAYFLY_RETURN_IF_ERROR(ToAbslStatus(stub->GetServerInfo(&context, {}, &info)));
  return info;
}

absl::StatusOr<Material> ReadMaterial(const Scenario& scenario, uint32_t vocabulary) {
  Material material;
  material.vocabulary = vocabulary;
  if (scenario.text_file.empty()) return material;
  MAYFLY_ASSIGN_OR_RETURN(material.text, cli::ReadDocument(scenario.text_file, std::cin));
  return material;
}

Json Conditions(const Flags& flags, const v1::GetServerInfoResponse& info) {
  return {{"scenario", flags.scenario_file},
          {"begun", absl::FormatTime(absl::RFC3339_sec, absl::Now(), absl::UTCTimeZone())},
          {"server", flags.connection.server.address},
          {"server_version", info.version()},
          {"device", info.device()},
          {"dtype", info.dtype()},
          {"model", info.model().name()},
          {"rows", info.rows_total()},
          {"window_tokens", info.limits().window_tokens()},
          {"connections", flags.connection.connections}};
}

absl::Status WriteFile(const std::string& path, const std::string& text) {
  if (path.empty()) return absl::OkStatus();
  if (path == "-") {
    std::cout << text << std::endl;
    return absl::OkStatus();
  }
  std::ofstream file(path, std::ios::binary);
  file << text;
  file.close();
  return file ? absl::OkStatus() : absl::InternalError(absl::StrCat("cannot write ", path));
}

absl::Status WriteReport(const Flags& flags, const Json& report) {
  if (flags.json_file != "-") std::cout << ReportText(report) << std::flush;
  MAYFLY_RETURN_IF_ERROR(WriteFile(flags.json_file, report.dump()));
  return WriteFile(flags.html_file, flags.html_file.empty() ? "" : ReportHtml(report));
}

// Runs, and adds to the report.
absl::Status Measure(const Flags& flags, const Scenario& scenario, const Target& target,
                     Json* report) {
  LiveView view(std::cerr, isatty(STDERR_FILENO));
  const OnProgress show = [&](const Progress& progress) { view.Show(progress); };
  std::vector<RunRecord> runs;
  if (flags.find_capacity) {
    MAYFLY_ASSIGN_OR_RETURN(
        Search search,
        SearchCapacity(scenario, target, static_cast<int>(flags.max_trials), show, [](double rate) {
          std::cerr << absl::StrFormat("\ntrying %.3g sessions/s\n", rate);
        }));
    (*report)["capacity"] = CapacityJson(search.capacity);
    runs = std::move(search.runs);
  } else {
    runs.push_back(RunScenario(scenario, target, show));
  }
  view.Finish();
  for (const RunRecord& run : runs) (*report)["runs"].push_back(RunJson(run));
  if (flags.require_slo && !flags.find_capacity && !KeptSlo(runs.front())) {
    return absl::FailedPreconditionError("the SLO was missed");
  }
  return absl::OkStatus();
}

absl::Status Load(const Flags& flags, const Scenario& scenario) {
  const SteadyClock clock;
  Target target;
  MAYFLY_ASSIGN_OR_RETURN(target.channels, Connect(flags.connection));
  MAYFLY_ASSIGN_OR_RETURN(const v1::GetServerInfoResponse info,
                          ServerInfo(target.channels.front()));
  MAYFLY_ASSIGN_OR_RETURN(target.material, ReadMaterial(scenario, info.model().vocabulary()));
  target.http_server = flags.http_server;
  target.clock = &clock;
  if (!flags.http_server.empty()) MAYFLY_RETURN_IF_ERROR(FetchMetrics(flags.http_server).status());
  Json report = {{"conditions", Conditions(flags, info)}};
  const absl::Status measured = Measure(flags, scenario, target, &report);
  if (report.contains("runs")) MAYFLY_RETURN_IF_ERROR(WriteReport(flags, report));
  return measured;
}

int BadUsage(const absl::Status& status) {
  std::cerr << "mayfly_load: " << status.message() << "\nTry 'mayfly_load --help'." << std::endl;
  return kExitBadUsage;
}

int Main(const std::vector<std::string>& arguments) {
  const absl::StatusOr<Flags> flags = ParseArguments(arguments);
  if (!flags.ok()) return BadUsage(flags.status());
  if (flags->help) {
    Flags defaults;
    std::cout << "usage: mayfly_load SCENARIO [flags]\n" << cli::FlagHelp(FlagGroups(&defaults));
    return kExitDone;
  }
  const absl::StatusOr<Scenario> scenario = ReadScenario(*flags);
  if (!scenario.ok()) return BadUsage(scenario.status());
  const absl::Status status = Load(*flags, *scenario);
  if (status.ok()) return kExitDone;
  if (absl::IsInvalidArgument(status)) return BadUsage(status);
  std::cerr << "mayfly_load: " << status.message() << std::endl;
  return kExitFailed;
}

}  // namespace
}  // namespace mayfly::load

int main(int argc, char** argv) {
  return mayfly::load::Main(std::vector<std::string>(argv + 1, argv + argc));
}
