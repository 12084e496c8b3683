#include "server/snapshots/redis_store.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"
#include "server/snapshots/redis_connection.h"

namespace mayfly {
namespace {

std::string Name(const std::string& key) { return absl::StrCat("mayfly:snapshot:", key); }
std::string PartName(const std::string& key, uint64_t part) {
  return absl::StrCat(Name(key), ":", part);
}

// What stands under a snapshot's own name.
struct Summary {
  uint64_t parts = 0;
  uint64_t bytes = 0;
};

std::optional<Summary> ParseSummary(absl::string_view text) {
  const std::vector<absl::string_view> numbers = absl::StrSplit(text, ' ');
  Summary summary;
  if (numbers.size() != 2 || !absl::SimpleAtoi(numbers[0], &summary.parts) ||
      !absl::SimpleAtoi(numbers[1], &summary.bytes)) {
    return std::nullopt;
  }
  return summary;
}

absl::Status Damaged() { return absl::DataLossError("the snapshot was changed in its store"); }

absl::StatusOr<Summary> ReadSummary(RedisConnection* redis, const std::string& key) {
  MAYFLY_ASSIGN_OR_RETURN(const std::optional<std::string> text, redis->Call({"GET", Name(key)}));
  if (!text) return NoSuchSnapshot();
  const std::optional<Summary> summary = ParseSummary(*text);
  if (!summary) return Damaged();
  return *summary;
}

absl::Status PutAll(RedisConnection* redis, const std::string& key, absl::string_view bytes,
                    size_t part_bytes, int64_t seconds) {
  const std::string expiry = absl::StrCat(seconds);
  Summary summary{0, bytes.size()};
  for (; !bytes.empty(); ++summary.parts) {
    const absl::string_view part = bytes.substr(0, part_bytes);
    bytes.remove_prefix(part.size());
    MAYFLY_RETURN_IF_ERROR(
        redis->Call({"SET", PartName(key, summary.parts), part, "EX", expiry}).status());
  }
  const std::string text = absl::StrCat(summary.parts, " ", summary.bytes);
  return redis->Call({"SET", Name(key), text, "EX", expiry}).status();
}

// The summary first: without it there is no snapshot. Goes on after an error.
absl::Status RemoveAll(RedisConnection* redis, const std::string& key, uint64_t parts) {
  absl::Status status = redis->Call({"DEL", Name(key)}).status();
  for (uint64_t part = 0; part < parts; ++part) {
    status.Update(redis->Call({"DEL", PartName(key, part)}).status());
  }
  return status;
}

}  // namespace

RedisStore::RedisStore(Options options, const WallClock* clock)
    : options_(std::move(options)), clock_(clock) {}

absl::Status RedisStore::Put(const std::string& key, absl::string_view bytes,
                             int64_t expires_unix_seconds) {
  MAYFLY_ASSIGN_OR_RETURN(RedisConnection redis,
                          RedisConnection::Open(options_.address, options_.timeout_seconds));
  const int64_t seconds = std::max<int64_t>(1, expires_unix_seconds - clock_->UnixSeconds());
  absl::Status status = PutAll(&redis, key, bytes, options_.part_bytes, seconds);
  if (status.ok()) return status;
  // Where Redis is gone the parts that it has taken expire by themselves.
  RemoveAll(&redis, key, bytes.size() / options_.part_bytes + 1).IgnoreError();
  return status;
}

absl::StatusOr<std::string> RedisStore::Get(const std::string& key, uint64_t max_bytes) {
  MAYFLY_ASSIGN_OR_RETURN(RedisConnection redis,
                          RedisConnection::Open(options_.address, options_.timeout_seconds));
  MAYFLY_ASSIGN_OR_RETURN(const Summary summary, ReadSummary(&redis, key));
  if (summary.bytes > max_bytes) return SnapshotTooLarge(summary.bytes, max_bytes);
  std::string bytes;
  bytes.reserve(summary.bytes);
  for (uint64_t i = 0; i < summary.parts; ++i) {
    MAYFLY_ASSIGN_OR_RETURN(const std::optional<std::string> part,
                            redis.Call({"GET", PartName(key, i)}));
    if (!part) return NoSuchSnapshot();
    if (bytes.size() + part->size() > summary.bytes) return Damaged();
    bytes += *part;
  }
  return bytes.size() == summary.bytes ? absl::StatusOr<std::string>(std::move(bytes)) : Damaged();
}

absl::Status RedisStore::Remove(const std::string& key) {
  MAYFLY_ASSIGN_OR_RETURN(RedisConnection redis,
                          RedisConnection::Open(options_.address, options_.timeout_seconds));
  const absl::StatusOr<Summary> summary = ReadSummary(&redis, key);
  if (absl::IsNotFound(summary.status())) return absl::OkStatus();
  MAYFLY_RETURN_IF_ERROR(summary.status());
  return RemoveAll(&redis, key, summary->parts);
}

}  // namespace mayfly
