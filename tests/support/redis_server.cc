#include "tests/support/redis_server.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <utility>

#include "server/snapshots/redis_connection.h"
#include "tests/support/eventually.h"

namespace mayfly {
namespace {

constexpr char kProgram[] = "/usr/bin/redis-server";

// Free a moment ago: another process may take it before Redis does.
int FreePort() {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  const auto any = reinterpret_cast<sockaddr*>(&address);
  const bool bound = bind(fd, any, size) == 0 && getsockname(fd, any, &size) == 0;
  close(fd);
  return bound ? ntohs(address.sin_port) : 0;
}

}  // namespace

bool RedisServer::IsInstalled() { return access(kProgram, X_OK) == 0; }

RedisServer::RedisServer(std::vector<std::string> settings, Listen listen)
    : settings_(std::move(settings)), listen_(listen) {}

bool RedisServer::Start() {
  constexpr int kPortsToTry = 5;
  for (int i = 0; i < kPortsToTry; ++i) {
    Kill();
    Spawn();
    const bool answers_or_died = Eventually([&] { return Answers() || !IsRunning(); });
    if (answers_or_died && IsRunning()) return true;
  }
  return false;
}

void RedisServer::Kill() {
  if (process_ == 0) return;
  kill(process_, SIGKILL);
  waitpid(process_, nullptr, 0);
  process_ = 0;
}

void RedisServer::Spawn() {
  std::vector<std::string> words = {kProgram, "--save", "",         "--appendonly",
                                    "no",     "--dir",  dir_.path()};
  if (listen_ == Listen::kUnix) {
    address_.socket_path = dir_ / "redis.sock";
    words.insert(words.end(), {"--port", "0", "--unixsocket", address_.socket_path});
  } else {
    address_.host = "127.0.0.1";
    address_.port = FreePort();
    words.insert(words.end(), {"--bind", "127.0.0.1", "--port", std::to_string(address_.port)});
  }
  words.insert(words.end(), settings_.begin(), settings_.end());
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  process_ = fork();
  if (process_ != 0) return;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  dup2(open("/dev/null", O_WRONLY), STDOUT_FILENO);
  execv(kProgram, arguments.data());
  _exit(127);
}

// A server that wants a password answers too, with a refusal.
bool RedisServer::Answers() const {
  auto connection = RedisConnection::Open(address_, /*timeout_seconds=*/5);
  if (!connection.ok()) return false;
  const auto reply = connection->Call({"PING"});
  return reply.ok() || reply.status().message().find("NOAUTH") != std::string::npos;
}

bool RedisServer::IsRunning() {
  if (process_ == 0 || waitpid(process_, nullptr, WNOHANG) == 0) return process_ != 0;
  process_ = 0;
  return false;
}

}  // namespace mayfly
