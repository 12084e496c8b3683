#pragma once

// Where an export goes: whole or not at all. It is written beside its place and moved there at the
// end; what is there already is never replaced. Owned by a command; one thread.

#include <filesystem>
#include <fstream>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "mayfly/v1/session.pb.h"

namespace mayfly::cli {

class ExportFiles {
 public:
  // One file, or a folder of those that the server names.
  enum class Shape { kFile, kFolder };

  ExportFiles(std::string path, Shape shape) : path_(std::move(path)), shape_(shape) {}
  // Removes what was not kept.
  ~ExportFiles() { Begin(); }
  ExportFiles(const ExportFiles&) = delete;
  ExportFiles& operator=(const ExportFiles&) = delete;

  // Forgets what was written.
  void Begin();
  absl::Status Write(const v1::Exported& part);
  // ALREADY_EXISTS where something is in the place.
  absl::Status Keep();

 private:
  std::string Draft() const { return path_ + ".part"; }
  absl::Status Failed(int error) const;

  const std::string path_;
  const Shape shape_;
  std::ofstream out_;
  std::string name_;
};

// ALREADY_EXISTS unless `path` is empty or nothing is there.
absl::Status CheckFree(const std::string& path);

}  // namespace mayfly::cli
