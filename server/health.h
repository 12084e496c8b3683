#pragma once

// Whether this server takes work, and the standard gRPC health protocol that says so. (gRPC's
// built-in health service cannot be called through reflection.)

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "engine/base/mutex.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "server/server_metrics.h"

namespace mayfly {

// What is true now, and who wants to hear of changes. Owned by the Server; thread-safe.
class HealthBoard {
 public:
  using Status = grpc::health::v1::HealthCheckResponse::ServingStatus;

  // Hears the status of one service: at once when it subscribes, then at every change.
  class Listener {
   public:
    virtual ~Listener() = default;
    // Called under the board's lock, so in order; must not call back.
    virtual void OnStatus(Status status) = 0;
    // The board closes; no call after this one.
    virtual void OnBoardClosed() = 0;
  };

  // Alive, but not yet ready.
  HealthBoard();

  // Readiness: of the whole server "", of the inference service, and of the name that probes use.
  void SetReady(bool ready);
  void SetAlive(bool alive);
  bool ready() const;
  bool alive() const;

  // Nothing for a service that this server does not have.
  std::optional<Status> Get(absl::string_view service) const;
  void Subscribe(const std::string& service, std::weak_ptr<Listener> listener);
  // Tells every listener, present and future, that there is nothing more to hear.
  void Close();

 private:
  struct Subscription {
    std::string service;
    std::weak_ptr<Listener> listener;
  };

  Status GetLocked(absl::string_view service) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Set(std::initializer_list<const char*> services, Status status);

  mutable Mutex mu_;
  std::map<std::string, Status, std::less<>> statuses_ ABSL_GUARDED_BY(mu_);
  std::vector<Subscription> subscriptions_ ABSL_GUARDED_BY(mu_);
  bool closed_ ABSL_GUARDED_BY(mu_) = false;
};

// Speaks the protocol; several servers may each have one on the same board.
class HealthService final : public grpc::health::v1::Health::CallbackService {
 public:
  // The pointers outlive the service.
  HealthService(HealthBoard* board, ServerMetrics* metrics);

  grpc::ServerUnaryReactor* Check(grpc::CallbackServerContext* context,
                                  const grpc::health::v1::HealthCheckRequest* request,
                                  grpc::health::v1::HealthCheckResponse* response) override;
  grpc::ServerWriteReactor<grpc::health::v1::HealthCheckResponse>* Watch(
      grpc::CallbackServerContext* context,
      const grpc::health::v1::HealthCheckRequest* request) override;

 private:
  HealthBoard* const board_;
  ServerMetrics* const metrics_;
};

}  // namespace mayfly
