#include "server/health.h"

#include <utility>

namespace mayfly {
namespace {

using ::grpc::health::v1::HealthCheckRequest;
using ::grpc::health::v1::HealthCheckResponse;

constexpr char kLiveness[] = "liveness";
constexpr char kReadiness[] = "readiness";

// One Watch call. The call owns it until OnDone; the board holds it weakly.
class WatchReactor final : public grpc::ServerWriteReactor<HealthCheckResponse>,
                           public HealthBoard::Listener,
                           public std::enable_shared_from_this<WatchReactor> {
 public:
  static WatchReactor* Start(HealthBoard* board, const std::string& service,
                             ServerMetrics* metrics) {
    const std::shared_ptr<WatchReactor> reactor(new WatchReactor(metrics));
    reactor->self_ = reactor;
    board->Subscribe(service, reactor);
    return reactor.get();
  }

  void OnStatus(HealthBoard::Status status) override {
    MutexLock lock(&mu_);
    next_ = status;
    AdvanceLocked();
  }

  void OnBoardClosed() override {
    End(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the server is going away"));
  }

  void OnCancel() noexcept override { End(grpc::Status::CANCELLED); }

  void OnWriteDone(bool ok) noexcept override {
    MutexLock lock(&mu_);
    writing_ = false;
    if (!ok && !end_) end_ = grpc::Status::CANCELLED;
    AdvanceLocked();
  }

  void OnDone() noexcept override { const std::shared_ptr<WatchReactor> last = std::move(self_); }

 private:
  explicit WatchReactor(ServerMetrics* metrics) : metrics_(metrics) {}

  void End(const grpc::Status& status) {
    MutexLock lock(&mu_);
    if (!end_) end_ = status;
    AdvanceLocked();
  }

  // Does what comes next, unless a write is in flight: only the newest status is worth sending.
  void AdvanceLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (writing_ || finished_) return;
    if (end_) {
      finished_ = true;
      metrics_->CountHandled(RpcMethod::kHealthWatch, *end_);
      Finish(*end_);
    } else if (next_ && next_ != sent_) {
      writing_ = true;
      sent_ = next_;
      response_.set_status(*next_);
      StartWrite(&response_);
    }
  }

  ServerMetrics* const metrics_;
  std::shared_ptr<WatchReactor> self_;

  Mutex mu_;
  HealthCheckResponse response_ ABSL_GUARDED_BY(mu_);
  std::optional<HealthBoard::Status> next_ ABSL_GUARDED_BY(mu_);
  std::optional<HealthBoard::Status> sent_ ABSL_GUARDED_BY(mu_);
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mu_);
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace

HealthBoard::HealthBoard() {
  SetReady(false);
  SetAlive(true);
}

void HealthBoard::SetReady(bool ready) {
  Set({"", "mayfly.v1.InferenceService", kReadiness},
      ready ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING);
}

void HealthBoard::SetAlive(bool alive) {
  Set({kLiveness}, alive ? HealthCheckResponse::SERVING : HealthCheckResponse::NOT_SERVING);
}

void HealthBoard::Set(std::initializer_list<const char*> services, Status status) {
  MutexLock lock(&mu_);
  for (const char* service : services) statuses_[service] = status;
  std::erase_if(subscriptions_, [](const Subscription& s) { return s.listener.expired(); });
  for (const Subscription& subscription : subscriptions_) {
    const std::shared_ptr<Listener> listener = subscription.listener.lock();
    if (listener != nullptr) listener->OnStatus(GetLocked(subscription.service));
  }
}

bool HealthBoard::ready() const { return Get(kReadiness) == HealthCheckResponse::SERVING; }

bool HealthBoard::alive() const { return Get(kLiveness) == HealthCheckResponse::SERVING; }

std::optional<HealthBoard::Status> HealthBoard::Get(absl::string_view service) const {
  MutexLock lock(&mu_);
  const Status status = GetLocked(service);
  if (status == HealthCheckResponse::SERVICE_UNKNOWN) return std::nullopt;
  return status;
}

HealthBoard::Status HealthBoard::GetLocked(absl::string_view service) const {
  const auto found = statuses_.find(service);
  return found == statuses_.end() ? HealthCheckResponse::SERVICE_UNKNOWN : found->second;
}

void HealthBoard::Subscribe(const std::string& service, std::weak_ptr<Listener> listener) {
  const std::shared_ptr<Listener> strong = listener.lock();
  if (strong == nullptr) return;
  MutexLock lock(&mu_);
  if (closed_) return strong->OnBoardClosed();
  strong->OnStatus(GetLocked(service));
  subscriptions_.push_back({service, std::move(listener)});
}

void HealthBoard::Close() {
  MutexLock lock(&mu_);
  closed_ = true;
  for (const Subscription& subscription : subscriptions_) {
    const std::shared_ptr<Listener> listener = subscription.listener.lock();
    if (listener != nullptr) listener->OnBoardClosed();
  }
  subscriptions_.clear();
}

HealthService::HealthService(HealthBoard* board, ServerMetrics* metrics)
    : board_(board), metrics_(metrics) {}

grpc::ServerUnaryReactor* HealthService::Check(grpc::CallbackServerContext* context,
                                               const HealthCheckRequest* request,
                                               HealthCheckResponse* response) {
  const std::optional<HealthBoard::Status> status = board_->Get(request->service());
  if (status) response->set_status(*status);
  const grpc::Status result =
      status ? grpc::Status::OK : grpc::Status(grpc::StatusCode::NOT_FOUND, "unknown service");
  metrics_->CountHandled(RpcMethod::kHealthCheck, result);
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  reactor->Finish(result);
  return reactor;
}

grpc::ServerWriteReactor<HealthCheckResponse>* HealthService::Watch(
    grpc::CallbackServerContext*, const HealthCheckRequest* request) {
  return WatchReactor::Start(board_, request->service(), metrics_);
}

}  // namespace mayfly
