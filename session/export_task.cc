#include "session/export_task.h"

#include "engine/base/log.h"

namespace mayfly {

ExportedEvent ExportTask::NextChunk() {
  MAYFLY_CHECK(file_ < files_.size());
  const ExportFile& file = files_[file_];
  ExportedEvent event;
  event.file = file.name;
  event.offset = offset_;
  event.file_bytes = file.bytes();
  event.data = file.Read(offset_, kChunkBytes);
  offset_ += event.data.size();
  if (offset_ == file.bytes()) {
    files_[file_++] = {};  // it may be large
    offset_ = 0;
  }
  event.done = file_ == files_.size();
  return event;
}

}  // namespace mayfly
