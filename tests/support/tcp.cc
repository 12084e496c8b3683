#include "tests/support/tcp.h"

#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>

namespace mayfly {

TcpConnection::TcpConnection(const std::string& address) {
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  peer.sin_port = htons(static_cast<uint16_t>(std::atoi(&address[address.rfind(':') + 1])));
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&peer), sizeof(peer)) == 0) {
    fd_ = fd;
  } else {
    close(fd);
  }
}

TcpConnection::~TcpConnection() {
  if (fd_ >= 0) close(fd_);
}

void TcpConnection::Send(const std::string& text) const {
  for (size_t sent = 0; sent < text.size();) {
    const ssize_t n = send(fd_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
    if (n <= 0) return;
    sent += static_cast<size_t>(n);
  }
}

std::string TcpConnection::ReadAll() const {
  std::string text;
  char buffer[4096];
  for (ssize_t n = 0; (n = recv(fd_, buffer, sizeof(buffer), 0)) > 0;) {
    text.append(buffer, static_cast<size_t>(n));
  }
  return text;
}

HttpAnswer HttpRequest(const std::string& address, const std::string& method,
                       const std::string& path) {
  const TcpConnection connection(address);
  connection.Send(method + " " + path + " HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
  const std::string text = connection.ReadAll();
  const size_t end = text.find("\r\n\r\n");
  if (end == text.npos) return {};
  return {std::atoi(&text[text.find(' ')]), text.substr(0, end), text.substr(end + 4)};
}

}  // namespace mayfly
