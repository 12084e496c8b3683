#include "server/snapshots/redis_connection.h"

#include <hiredis/hiredis.h>
#include <sys/time.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace mayfly {
namespace {

struct FreeReply {
  void operator()(redisReply* reply) const { freeReplyObject(reply); }
};
using Reply = std::unique_ptr<redisReply, FreeReply>;

timeval ToTimeval(double seconds) {
  const double whole = std::floor(seconds);
  return {static_cast<time_t>(whole), static_cast<suseconds_t>((seconds - whole) * 1e6)};
}

absl::Status NoAnswer(absl::string_view why) {
  return absl::UnavailableError(absl::StrCat("the snapshot store does not answer: ", why));
}

// Of a reply's first word alone: the rest may repeat what was sent.
absl::Status Refused(absl::string_view reply) {
  const absl::string_view code = reply.substr(0, reply.find(' '));
  if (code == "OOM") return absl::ResourceExhaustedError("the snapshot store is full");
  return absl::UnavailableError(absl::StrCat("the snapshot store refuses: ", code));
}

}  // namespace

void RedisConnection::Close::operator()(redisContext* context) const { redisFree(context); }

absl::StatusOr<RedisConnection> RedisConnection::Open(const RedisAddress& address,
                                                      double timeout_seconds) {
  const timeval timeout = ToTimeval(timeout_seconds);
  RedisConnection connection(
      address.socket_path.empty()
          ? redisConnectWithTimeout(address.host.c_str(), address.port, timeout)
          : redisConnectUnixWithTimeout(address.socket_path.c_str(), timeout));
  redisContext* context = connection.context_.get();
  if (context == nullptr) return absl::ResourceExhaustedError("no memory for a connection");
  if (context->err != 0) return NoAnswer(context->errstr);
  if (redisSetTimeout(context, timeout) != REDIS_OK) return NoAnswer(context->errstr);
  MAYFLY_RETURN_IF_ERROR(connection.Introduce(address));
  return connection;
}

absl::Status RedisConnection::Introduce(const RedisAddress& address) {
  if (!address.password.empty()) {
    std::vector<absl::string_view> words = {"AUTH"};
    if (!address.user.empty()) words.push_back(address.user);
    words.push_back(address.password);
    MAYFLY_RETURN_IF_ERROR(Call(words).status());
  }
  if (address.database == 0) return absl::OkStatus();
  return Call({"SELECT", absl::StrCat(address.database)}).status();
}

absl::StatusOr<std::optional<std::string>> RedisConnection::Call(
    const std::vector<absl::string_view>& words) {
  std::vector<const char*> texts;
  std::vector<size_t> sizes;
  for (const absl::string_view word : words) {
    texts.push_back(word.data());
    sizes.push_back(word.size());
  }
  const Reply reply(static_cast<redisReply*>(redisCommandArgv(
      context_.get(), static_cast<int>(words.size()), texts.data(), sizes.data())));
  if (reply == nullptr) return NoAnswer(context_->errstr);
  if (reply->type == REDIS_REPLY_ERROR) return Refused({reply->str, reply->len});
  if (reply->type == REDIS_REPLY_NIL) return std::nullopt;
  if (reply->type == REDIS_REPLY_INTEGER) return absl::StrCat(reply->integer);
  return std::string(reply->str, reply->len);
}

}  // namespace mayfly
