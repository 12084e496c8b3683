#include "server/snapshots/redis_address.h"

#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/base/status_macros.h"

namespace mayfly {
namespace {

constexpr absl::string_view kTcp = "redis://";
constexpr absl::string_view kUnix = "redis+unix://";
constexpr absl::string_view kTls = "rediss://";

absl::Status Want(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("want ", what));
}

absl::StatusOr<std::string> PercentDecoded(absl::string_view text) {
  std::string decoded;
  while (!text.empty()) {
    if (text.front() != '%') {
      decoded += text.front();
      text.remove_prefix(1);
      continue;
    }
    if (text.size() < 3 || !absl::ascii_isxdigit(text[1]) || !absl::ascii_isxdigit(text[2])) {
      return Want("two hex digits after % in a Redis user or password");
    }
    decoded += absl::HexStringToBytes(text.substr(1, 2));
    text.remove_prefix(3);
  }
  return decoded;
}

// Takes `user:password@` off the front of `rest`, if it is there.
absl::Status TakeCredentials(absl::string_view* rest, RedisAddress* address) {
  const size_t at = rest->rfind('@');
  if (at == rest->npos) return absl::OkStatus();
  const absl::string_view credentials = rest->substr(0, at);
  const size_t colon = credentials.find(':');
  if (colon == credentials.npos) return Want("[user]:password before @ in a Redis address");
  MAYFLY_ASSIGN_OR_RETURN(address->user, PercentDecoded(credentials.substr(0, colon)));
  MAYFLY_ASSIGN_OR_RETURN(address->password, PercentDecoded(credentials.substr(colon + 1)));
  rest->remove_prefix(at + 1);
  return absl::OkStatus();
}

absl::Status SetDatabase(absl::string_view text, RedisAddress* address) {
  if (text.empty()) return absl::OkStatus();
  if (absl::SimpleAtoi(text, &address->database) && address->database >= 0) {
    return absl::OkStatus();
  }
  return Want("a whole number as Redis database");
}

// host, host:port, or [ipv6]:port.
absl::Status SetHost(absl::string_view text, RedisAddress* address) {
  const size_t colon = text.rfind(':');
  const bool has_port = colon != text.npos && !absl::EndsWith(text, "]");
  if (has_port && (!absl::SimpleAtoi(text.substr(colon + 1), &address->port) || address->port < 1 ||
                   address->port > 65535)) {
    return Want("a Redis port from 1 to 65535");
  }
  absl::string_view host = has_port ? text.substr(0, colon) : text;
  if (absl::StartsWith(host, "[") && absl::EndsWith(host, "]")) {
    host = host.substr(1, host.size() - 2);
  }
  if (host.empty()) return Want("a Redis host");
  address->host = std::string(host);
  return absl::OkStatus();
}

absl::StatusOr<RedisAddress> ParseTcp(absl::string_view rest) {
  RedisAddress address;
  MAYFLY_RETURN_IF_ERROR(TakeCredentials(&rest, &address));
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(rest, absl::MaxSplits('/', 1));
  MAYFLY_RETURN_IF_ERROR(SetHost(parts.first, &address));
  MAYFLY_RETURN_IF_ERROR(SetDatabase(parts.second, &address));
  return address;
}

absl::StatusOr<RedisAddress> ParseUnix(absl::string_view rest) {
  RedisAddress address;
  MAYFLY_RETURN_IF_ERROR(TakeCredentials(&rest, &address));
  std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(rest, absl::MaxSplits('?', 1));
  if (!absl::StartsWith(parts.first, "/")) return Want("the whole path of a Redis socket");
  if (!parts.second.empty() && !absl::ConsumePrefix(&parts.second, "db=")) {
    return Want("db=NUMBER after ? in a Redis address");
  }
  address.socket_path = std::string(parts.first);
  MAYFLY_RETURN_IF_ERROR(SetDatabase(parts.second, &address));
  return address;
}

}  // namespace

bool IsRedisUrl(absl::string_view store) { return absl::StrContains(store, "://"); }

absl::StatusOr<RedisAddress> ParseRedisUrl(absl::string_view url) {
  if (absl::ConsumePrefix(&url, kTcp)) return ParseTcp(url);
  if (absl::ConsumePrefix(&url, kUnix)) return ParseUnix(url);
  if (absl::StartsWith(url, kTls)) {
    return Want("redis:// or redis+unix://; rediss:// (TLS) is not built in");
  }
  return Want(
      "a directory, redis://[[user]:password@]host[:port][/database] or "
      "redis+unix://[[user]:password@]/path[?db=database]");
}

}  // namespace mayfly
