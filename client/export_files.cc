#include "client/export_files.h"

#include <cerrno>
#include <cstring>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "engine/base/status_macros.h"

namespace mayfly::cli {

absl::Status CheckFree(const std::string& path) {
  std::error_code error;
  if (path.empty() || !std::filesystem::exists(path, error)) return absl::OkStatus();
  return absl::AlreadyExistsError(absl::StrCat(path, " is there already"));
}

void ExportFiles::Begin() {
  out_.close();
  name_.clear();
  std::error_code ignored;
  std::filesystem::remove_all(Draft(), ignored);
}

absl::Status ExportFiles::Write(const v1::Exported& part) {
  errno = 0;
  if (part.file() != name_) {
    name_ = part.file();
    // The server's word is a name and no path.
    const auto name = std::filesystem::path(name_).filename();
    std::error_code ignored;
    if (shape_ == Shape::kFolder) std::filesystem::create_directories(Draft(), ignored);
    out_.close();
    out_.clear();
    out_.open(shape_ == Shape::kFile ? std::filesystem::path(Draft())
                                     : std::filesystem::path(Draft()) / name,
              std::ios::binary | std::ios::trunc);
  }
  out_ << part.data();
  // A full disk may show only when the last bytes leave the buffer.
  if (part.offset() + part.data().size() == part.file_bytes()) out_.flush();
  return out_.good() ? absl::OkStatus() : Failed(errno);
}

absl::Status ExportFiles::Keep() {
  out_.close();
  MAYFLY_RETURN_IF_ERROR(CheckFree(path_));
  std::error_code error;
  std::filesystem::rename(Draft(), path_, error);
  return error ? Failed(error.value()) : absl::OkStatus();
}

absl::Status ExportFiles::Failed(int error) const {
  return absl::UnavailableError(absl::StrCat("cannot write ", path_, ": ", std::strerror(error)));
}

}  // namespace mayfly::cli
