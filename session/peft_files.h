#pragma once

// An adapter as the two files that PEFT loads: adapter_config.json and adapter_model.safetensors.
// Pure; any thread.
//
// safetensors: eight bytes of header length, the header (JSON: each tensor's type, shape and
// place), then the tensors' bytes (github.com/huggingface/safetensors, "Format").

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/types.h"

namespace mayfly {

// A file made of a head and the bytes of tensors, which it shares and does not copy.
class ExportFile {
 public:
  ExportFile() = default;
  ExportFile(std::string file_name, std::string head,
             std::shared_ptr<const RowState> tensors = nullptr);

  uint64_t bytes() const { return bytes_; }
  // At most `most` bytes from `offset` on.
  std::string Read(uint64_t offset, size_t most) const;

  std::string name;

 private:
  std::string head_;
  std::shared_ptr<const RowState> tensors_;
  uint64_t bytes_ = 0;
};

// `adapter`: what ExportWork{adapter_alone} answered. `model`: the base model's name, which PEFT
// looks up unless it is given a model.
std::vector<ExportFile> PeftFiles(std::shared_ptr<const RowState> adapter, const AdapterSpec& spec,
                                  const ModelInfo& model);

}  // namespace mayfly
