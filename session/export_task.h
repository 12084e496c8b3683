#pragma once

// One export under way: the files that leave, cut into chunks as the client takes them. Owned by
// Session and guarded by its mutex; submits nothing itself.

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/types.h"
#include "session/peft_files.h"
#include "session/types.h"

namespace mayfly {

// Whoever holds it is one of the exports that may be under way at once.
using ExportPlace = std::shared_ptr<const void>;

class ExportTask {
 public:
  // Bytes of one chunk: a message of it stays below gRPC's usual limit of 4 MiB.
  static constexpr size_t kChunkBytes = 1 << 20;

  ExportTask(const ExportCommand& command, ExportPlace place)
      : command_(command), place_(std::move(place)) {}

  const ExportCommand& command() const { return command_; }

  bool begun() const { return begun_; }
  void Begin() { begun_ = true; }

  void SetFiles(std::vector<ExportFile> files) { files_ = std::move(files); }
  bool has_files() const { return !files_.empty(); }
  // The next chunk; `done` is set on the last of all files. REQUIRES: has_files().
  ExportedEvent NextChunk();

 private:
  ExportCommand command_;
  ExportPlace place_;
  bool begun_ = false;
  // What is still to be sent; the first has been sent up to offset_.
  std::vector<ExportFile> files_;
  size_t file_ = 0;
  uint64_t offset_ = 0;
};

}  // namespace mayfly
