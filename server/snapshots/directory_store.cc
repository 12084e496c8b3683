#include "server/snapshots/directory_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"
#include "server/secrets/crypto.h"

namespace mayfly {
namespace {

constexpr absl::string_view kSnapshotEnding = ".snapshot";
constexpr absl::string_view kTemporaryEnding = ".snapshot-being-written";
// Nobody writes one snapshot for this long: whoever began it is gone.
constexpr int64_t kTemporarySeconds = 3600;
constexpr int64_t kRemovalSeconds = 60;

// Closes with the scope.
class File {
 public:
  File(const std::string& path, int flags, mode_t mode = 0)
      : fd_(open(path.c_str(), flags | O_CLOEXEC, mode)) {}
  ~File() {
    if (fd_ >= 0) close(fd_);
  }
  File(const File&) = delete;
  File& operator=(const File&) = delete;

  bool is_open() const { return fd_ >= 0; }
  int fd() const { return fd_; }

 private:
  const int fd_;
};

// Removes the file with the scope, unless it was renamed.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string path)
      : path_(std::move(path)), file_(path_, O_WRONLY | O_CREAT | O_EXCL, 0600) {}
  ~TemporaryFile() {
    if (file_.is_open() && !renamed_) unlink(path_.c_str());
  }

  const File& file() const { return file_; }
  bool RenameTo(const std::string& path) {
    renamed_ = rename(path_.c_str(), path.c_str()) == 0;
    return renamed_;
  }

 private:
  const std::string path_;
  const File file_;
  bool renamed_ = false;
};

// Clients see the message, so it names no path.
absl::Status StoreError(absl::string_view what) {
  const int error = errno;
  const std::string message = absl::StrCat("the snapshot store cannot ", what, ": ",
                                           std::generic_category().message(error));
  const bool full = error == ENOSPC || error == EDQUOT || error == EFBIG;
  return full ? absl::ResourceExhaustedError(message) : absl::UnavailableError(message);
}

bool WriteAll(int fd, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return false;
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

// Fewer bytes than asked for where the file ends before them.
bool ReadAll(int fd, std::string* bytes) {
  size_t filled = 0;
  while (filled < bytes->size()) {
    const ssize_t got = read(fd, bytes->data() + filled, bytes->size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return false;
    if (got == 0) break;
    filled += static_cast<size_t>(got);
  }
  bytes->resize(filled);
  return true;
}

bool SetModificationTime(int fd, int64_t unix_seconds) {
  const timespec times[2] = {{0, UTIME_OMIT}, {static_cast<time_t>(unix_seconds), 0}};
  return futimens(fd, times) == 0;
}

// When `path` may be removed; nothing that is not ours ever may.
bool HasExpired(const std::string& path, int64_t now) {
  struct stat info {};
  if (lstat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return false;
  if (absl::EndsWith(path, kSnapshotEnding)) return info.st_mtime <= now;
  return absl::EndsWith(path, kTemporaryEnding) && info.st_mtime + kTemporarySeconds <= now;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DirectoryStore>> DirectoryStore::Open(std::string directory,
                                                                     const WallClock* clock,
                                                                     const Logger* logger) {
  if (mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) {
    return StoreError("make its directory");
  }
  std::error_code error;
  if (!std::filesystem::is_directory(directory, error) ||
      access(directory.c_str(), R_OK | W_OK | X_OK) != 0) {
    return absl::UnavailableError("the snapshot store is no directory that this server may write");
  }
  std::unique_ptr<DirectoryStore> store(new DirectoryStore(std::move(directory), clock, logger));
  store->RemoveExpired();
  return store;
}

DirectoryStore::DirectoryStore(std::string directory, const WallClock* clock, const Logger* logger)
    : directory_(std::move(directory)), clock_(clock), logger_(logger) {}

absl::Status DirectoryStore::Put(const std::string& key, absl::string_view bytes,
                                 int64_t expires_unix_seconds) {
  const int64_t since_removal = clock_->UnixSeconds() - last_removal_;
  // Less than none: the clock was set back.
  if (since_removal < 0 || since_removal >= kRemovalSeconds) RemoveExpired();
  return Write(key, bytes, expires_unix_seconds);
}

absl::StatusOr<std::string> DirectoryStore::Get(const std::string& key, uint64_t max_bytes) {
  const File file(PathOf(key), O_RDONLY | O_NOFOLLOW);
  if (!file.is_open()) return errno == ENOENT ? NoSuchSnapshot() : StoreError("open a file");
  struct stat info {};
  if (fstat(file.fd(), &info) != 0) return StoreError("read a file");
  const auto size = static_cast<uint64_t>(info.st_size);
  if (size > max_bytes) return SnapshotTooLarge(size, max_bytes);
  std::string bytes(size, '\0');
  if (!ReadAll(file.fd(), &bytes)) return StoreError("read a file");
  return bytes;
}

absl::Status DirectoryStore::Remove(const std::string& key) {
  if (unlink(PathOf(key).c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  return StoreError("remove a file");
}

std::string DirectoryStore::PathOf(const std::string& key) const {
  return absl::StrCat(directory_, "/", key, kSnapshotEnding);
}

absl::Status DirectoryStore::Write(const std::string& key, absl::string_view bytes,
                                   int64_t expires) const {
  TemporaryFile temporary(
      absl::StrCat(directory_, "/", absl::BytesToHexString(RandomBytes(16)), kTemporaryEnding));
  if (!temporary.file().is_open()) return StoreError("make a file");
  const int fd = temporary.file().fd();
  if (!WriteAll(fd, bytes)) return StoreError("write a file");
  // Before it gets its name: as a snapshot it would have expired at once.
  if (!SetModificationTime(fd, expires)) return StoreError("set the time of a file");
  if (fsync(fd) != 0) return StoreError("write a file");
  if (!temporary.RenameTo(PathOf(key))) return StoreError("rename a file");
  const File directory(directory_, O_RDONLY | O_DIRECTORY);
  if (directory.is_open() && fsync(directory.fd()) == 0) return absl::OkStatus();
  const absl::Status status = StoreError("write its directory");
  unlink(PathOf(key).c_str());
  return status;
}

void DirectoryStore::RemoveExpired() {
  const int64_t now = clock_->UnixSeconds();
  last_removal_ = now;
  int removed = 0;
  std::error_code error;
  for (auto file = std::filesystem::directory_iterator(directory_, error);
       !error && file != std::filesystem::directory_iterator(); file.increment(error)) {
    const std::string path = file->path().string();
    if (HasExpired(path, now) && unlink(path.c_str()) == 0) ++removed;
  }
  if (removed > 0) logger_->Info("expired_snapshots_removed", {{"snapshots", removed}});
}

}  // namespace mayfly
