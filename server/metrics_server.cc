#include "server/metrics_server.h"

#include <array>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "civetweb.h"
#include "prometheus/text_serializer.h"

namespace mayfly {
namespace {

constexpr char kPlainText[] = "text/plain; charset=utf-8";
// Prometheus' text format.
constexpr char kMetricsText[] = "text/plain; version=0.0.4; charset=utf-8";

// Returns what civetweb wants: the status of the answer that was sent.
int Answer(mg_connection* connection, int status, const char* content_type,
           absl::string_view body) {
  const char* const reason = mg_get_response_code_text(connection, status);
  mg_printf(connection,
            "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
            "Cache-Control: no-store\r\nConnection: close\r\n\r\n",
            status, reason, content_type, body.size());
  const absl::string_view method = mg_get_request_info(connection)->request_method;
  if (method != "HEAD") mg_write(connection, body.data(), body.size());
  return status;
}

int AnswerYesOrNo(mg_connection* connection, bool yes) {
  return Answer(connection, yes ? 200 : 503, kPlainText, yes ? "ok\n" : "no\n");
}

// Errors arrive as the result of mg_start2; nothing else is worth a line.
int DropLogMessage(const mg_connection*, const char*) { return 1; }

}  // namespace

absl::StatusOr<std::unique_ptr<MetricsServer>> MetricsServer::Start(
    const std::string& address, const prometheus::Collectable* metrics, const HealthBoard* health) {
  std::unique_ptr<MetricsServer> server(new MetricsServer(metrics, health));
  mg_callbacks callbacks{};
  callbacks.log_message = DropLogMessage;
  // Not mg_set_request_handler, which can only be called once the port is already open.
  callbacks.begin_request = Serve;
  const char* options[] = {"listening_ports", address.c_str(), "num_threads", "2", nullptr};
  mg_init_data init{&callbacks, server.get(), options};
  std::array<char, 256> text{};
  unsigned code = 0;
  mg_error_data error{&code, text.data(), text.size()};
  server->context_ = mg_start2(&init, &error);
  if (server->context_ == nullptr) {
    return absl::UnavailableError(absl::StrCat("cannot listen on ", address,
                                               ": the address is in use or is not this machine's"));
  }
  mg_server_port port{};
  mg_get_server_ports(server->context_, 1, &port);
  server->address_ = absl::StrCat(address.substr(0, address.rfind(':') + 1), port.port);
  return server;
}

MetricsServer::MetricsServer(const prometheus::Collectable* metrics, const HealthBoard* health)
    : metrics_(metrics), health_(health) {
  mg_init_library(0);
}

MetricsServer::~MetricsServer() {
  if (context_ != nullptr) mg_stop(context_);
  mg_exit_library();
}

int MetricsServer::Serve(mg_connection* connection) {
  const mg_request_info* const request = mg_get_request_info(connection);
  const auto* const self = static_cast<const MetricsServer*>(request->user_data);
  const absl::string_view method = request->request_method;
  const absl::string_view path = request->local_uri;
  if (method != "GET" && method != "HEAD") return Answer(connection, 405, kPlainText, "GET only\n");
  if (path == "/metrics") return Answer(connection, 200, kMetricsText, self->MetricsText());
  if (path == "/healthz") return AnswerYesOrNo(connection, self->health_->alive());
  if (path == "/readyz") return AnswerYesOrNo(connection, self->health_->ready());
  return Answer(connection, 404, kPlainText, "try /metrics, /healthz or /readyz\n");
}

std::string MetricsServer::MetricsText() const {
  std::ostringstream text;
  prometheus::TextSerializer().Serialize(text, metrics_->Collect());
  return text.str();
}

}  // namespace mayfly
