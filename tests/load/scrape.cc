#include "tests/load/scrape.h"

#include <array>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "civetweb.h"

namespace mayfly::load {
namespace {

constexpr int kTimeoutMs = 5000;
constexpr size_t kMaxBytes = 16 << 20;

struct Close {
  void operator()(mg_connection* connection) const { mg_close_connection(connection); }
};

}  // namespace

MetricValues ParseMetrics(absl::string_view text) {
  MetricValues values;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (line.empty() || line[0] == '#') continue;
    // The value stands last; a label may hold spaces.
    const size_t space = line.rfind(' ');
    double value = 0;
    if (space == line.npos || !absl::SimpleAtod(line.substr(space + 1), &value)) continue;
    const absl::string_view name = line.substr(0, space);
    const absl::string_view family = name.substr(0, name.find('{'));
    if (!absl::EndsWith(family, "_bucket")) values[std::string(name)] = value;
  }
  return values;
}

double Snapshot::operator[](const std::string& name) const {
  const auto found = values.find(name);
  return found == values.end() ? 0 : found->second;
}

const Snapshot& SnapshotAt(const std::vector<Snapshot>& snapshots, TimePoint time) {
  const Snapshot* found = &snapshots.front();
  for (const Snapshot& snapshot : snapshots) {
    if (snapshot.time <= time) found = &snapshot;
  }
  return *found;
}

absl::StatusOr<MetricValues> FetchMetrics(const std::string& address) {
  const auto failed = [&](absl::string_view why) {
    return absl::UnavailableError(absl::StrCat("cannot read http://", address, "/metrics: ", why));
  };
  const size_t colon = address.rfind(':');
  int port = 0;
  if (colon == std::string::npos || !absl::SimpleAtoi(address.substr(colon + 1), &port)) {
    return failed("the address is not host:port");
  }
  std::array<char, 256> error{};
  const std::unique_ptr<mg_connection, Close> connection(
      mg_connect_client(address.substr(0, colon).c_str(), port, 0, error.data(), error.size()));
  if (connection == nullptr) return failed(error.data());
  mg_printf(connection.get(), "GET /metrics HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n",
            address.c_str());
  if (mg_get_response(connection.get(), error.data(), error.size(), kTimeoutMs) < 0) {
    return failed(error.data());
  }
  const int status = mg_get_response_info(connection.get())->status_code;
  if (status != 200) return failed(absl::StrCat("status ", status));
  std::string body;
  std::array<char, 16384> part;
  for (int size; (size = mg_read(connection.get(), part.data(), part.size())) > 0;) {
    body.append(part.data(), static_cast<size_t>(size));
    if (body.size() > kMaxBytes) return failed("more than 16 MiB");
  }
  return ParseMetrics(body);
}

Scraper::Scraper(std::string address, const Clock* clock)
    : address_(std::move(address)), clock_(clock), thread_([this] { Run(); }) {}

std::vector<Snapshot> Scraper::Stop() {
  {
    MutexLock lock(&mu_);
    stopping_ = true;
    stop_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
  return std::move(snapshots_);
}

void Scraper::Run() {
  for (bool stopping = false; !stopping;) {
    Fetch();
    MutexLock lock(&mu_);
    if (!stopping_) stop_.WaitFor(&mu_, std::chrono::seconds(1));
    stopping = stopping_;
  }
  Fetch();
}

void Scraper::Fetch() {
  absl::StatusOr<MetricValues> values = FetchMetrics(address_);
  if (values.ok()) snapshots_.push_back({clock_->Now(), *std::move(values)});
}

}  // namespace mayfly::load
