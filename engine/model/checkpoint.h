#pragma once

// The tensors of a model directory: model.safetensors, or the shards that
// model.safetensors.index.json names. Files are mapped, not read; a tensor is copied when it is
// taken. Used by one thread, at load.

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <ATen/ATen.h>

#include "absl/status/statusor.h"

namespace mayfly {

class Checkpoint {
 public:
  // NOT_FOUND when there is no file; INVALID_ARGUMENT naming file and tensor when a header is not
  // what the format says: truncated, overlapping, out of bounds, of an unknown type.
  static absl::StatusOr<Checkpoint> Open(const std::string& dir);
  // The same of one file.
  static absl::StatusOr<Checkpoint> OpenFile(const std::string& path);

  // A read-only view of the mapped file, or undefined.
  at::Tensor Find(const std::string& name) const;
  // A copy of the tensor in `options`; INVALID_ARGUMENT when it is missing, has another shape
  // or holds whole numbers. A tensor that was taken no longer counts as unused.
  absl::StatusOr<at::Tensor> Take(const std::string& name, at::IntArrayRef shape,
                                  const at::TensorOptions& options);
  // Tells models apart: a hash of every tensor's name, type and shape and of some of its elements.
  uint64_t Fingerprint() const;
  // Names that nobody has taken.
  std::vector<std::string> Unused() const;

 private:
  struct Entry {
    at::Tensor mapped;  // a view of the file
    bool taken = false;
  };
  absl::Status AddFile(const std::string& path);

  std::map<std::string, Entry> tensors_;
};

}  // namespace mayfly
