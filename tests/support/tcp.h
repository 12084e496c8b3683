#pragma once

// Plain TCP to the loopback, for tests that must look beneath gRPC or speak HTTP.

#include <string>

namespace mayfly {

// A socket connected to "127.0.0.1:port"; closed with the object.
class TcpConnection {
 public:
  explicit TcpConnection(const std::string& address);
  ~TcpConnection();
  TcpConnection(const TcpConnection&) = delete;
  TcpConnection& operator=(const TcpConnection&) = delete;

  // -1 when the connection was refused.
  int fd() const { return fd_; }
  void Send(const std::string& text) const;
  // Everything until the peer closes.
  std::string ReadAll() const;

 private:
  int fd_ = -1;
};

struct HttpAnswer {
  int status = 0;
  std::string headers;
  std::string body;
};

HttpAnswer HttpRequest(const std::string& address, const std::string& method,
                       const std::string& path);
inline HttpAnswer HttpGet(const std::string& address, const std::string& path) {
  return HttpRequest(address, "GET", path);
}

}  // namespace mayfly
