#include "tests/load/harness.h"

#include <sys/resource.h>

#include <memory>
#include <optional>
#include <utility>

#include "tests/load/session_call.h"

namespace mayfly::load {
namespace {

// How far from the scenario's own rate a search goes.
constexpr double kSearchFactor = 64;

double ClientCpuSeconds() {
  rusage usage = {};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

}  // namespace

RunRecord RunScenario(const Scenario& scenario, const Target& target,
                      const OnProgress& on_progress) {
  const double cpu_before = ClientCpuSeconds();
  std::optional<Scraper> scraper;
  if (!target.http_server.empty()) scraper.emplace(target.http_server, target.clock);
  EventLoop loop(target.clock);
  Runner runner(&scenario, &target.material,
                {target.clock, &loop, OverGrpc(target.channels, target.clock, &loop), on_progress});
  RunRecord record{scenario, runner.window(), runner.Run(), {}, 0};
  if (scraper) record.snapshots = scraper->Stop();
  record.client_cpu_seconds = ClientCpuSeconds() - cpu_before;
  return record;
}

absl::StatusOr<Search> SearchCapacity(const Scenario& scenario, const Target& target,
                                      int max_trials, const OnProgress& on_progress,
                                      const std::function<void(double)>& on_trial) {
  const double own_rate = scenario.arrivals.sessions_per_second;
  if (own_rate <= 0) {
    return absl::InvalidArgumentError(
        "a search for capacity needs arrivals.sessions_per_second, the rate to begin with");
  }
  CapacityOptions options;
  options.start = own_rate;
  options.lowest = own_rate / kSearchFactor;
  options.highest = own_rate * kSearchFactor;
  options.max_trials = max_trials;
  Search search;
  absl::StatusOr<Capacity> capacity =
      FindCapacity(options, [&](double rate) -> absl::StatusOr<bool> {
        on_trial(rate);
        Scenario trial = scenario;
        trial.arrivals.sessions_per_second = rate;
        search.runs.push_back(RunScenario(trial, target, on_progress));
        return KeptSlo(search.runs.back());
      });
  if (!capacity.ok()) return capacity.status();
  search.capacity = *std::move(capacity);
  return search;
}

}  // namespace mayfly::load
