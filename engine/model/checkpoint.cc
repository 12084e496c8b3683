#include "engine/model/checkpoint.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <set>
#include <span>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace mayfly {
namespace {

using Json = nlohmann::json;

// Of each end of a tensor, for the fingerprint: enough that no training leaves them all alone.
constexpr size_t kSampledBytes = 1024;

// A read-only mapping of a file, shared by the tensors that look into it.
class MappedFile {
 public:
  static absl::StatusOr<std::shared_ptr<MappedFile>> Open(const std::string& path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return absl::NotFoundError(absl::StrCat("cannot read ", path));
    struct stat info = {};
    const bool sized = fstat(fd, &info) == 0 && info.st_size > 0;
    const size_t size = sized ? static_cast<size_t>(info.st_size) : 0;
    void* const data = sized ? mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
    close(fd);
    if (data == MAP_FAILED) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": empty or not a file"));
    }
    return std::shared_ptr<MappedFile>(new MappedFile(data, size));
  }
  ~MappedFile() { munmap(data_, size_); }

  std::span<const char> bytes() const { return {static_cast<const char*>(data_), size_}; }

 private:
  MappedFile(void* data, size_t size) : data_(data), size_(size) {}
  void* const data_;
  const size_t size_;
};

std::optional<at::ScalarType> TypeFromName(const std::string& name) {
  if (name == "BF16") return at::kBFloat16;
  if (name == "F16") return at::kHalf;
  if (name == "F32") return at::kFloat;
  if (name == "I64") return at::kLong;
  return std::nullopt;
}

// safetensors: eight bytes of header length, the header (JSON), then the tensors' bytes.
struct Header {
  Json json;
  std::span<const char> data;
};

absl::StatusOr<Header> ReadHeader(const std::string& path, std::span<const char> file) {
  uint64_t length = 0;
  if (file.size() < sizeof(length)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": truncated, ", file.size(), " bytes are no safetensors file"));
  }
  std::memcpy(&length, file.data(), sizeof(length));
  const std::span<const char> rest = file.subspan(sizeof(length));
  if (length > rest.size()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": truncated, the header says ", length,
                                                   " bytes and ", rest.size(), " are left"));
  }
  Json json = Json::parse(rest.begin(), rest.begin() + static_cast<ptrdiff_t>(length), nullptr,
                          /*allow_exceptions=*/false);
  if (!json.is_object()) return absl::InvalidArgumentError(absl::StrCat(path, ": bad header"));
  return Header{std::move(json), rest.subspan(length)};
}

struct TensorInfo {
  at::ScalarType type;
  std::vector<int64_t> shape;
  uint64_t begin;
  uint64_t end;
};

absl::StatusOr<TensorInfo> ReadInfo(const Json& json) {
  TensorInfo info{};
  try {
    const std::optional<at::ScalarType> type = TypeFromName(json.at("dtype").get<std::string>());
    if (!type) {
      return absl::InvalidArgumentError(absl::StrCat("type ", json.at("dtype").get<std::string>(),
                                                     " is none of BF16, F16, F32, I64"));
    }
    info.type = *type;
    info.shape = json.at("shape").get<std::vector<int64_t>>();
    info.begin = json.at("data_offsets").at(0).get<uint64_t>();
    info.end = json.at("data_offsets").at(1).get<uint64_t>();
  } catch (const Json::exception&) {
    return absl::InvalidArgumentError("malformed entry");
  }
  return info;
}

// Whether the shape has exactly the bytes that the offsets claim, without overflow.
absl::Status CheckBytes(const TensorInfo& info, uint64_t file_bytes) {
  uint64_t bytes = at::elementSize(info.type);
  for (const int64_t size : info.shape) {
    if (size < 0 || (size > 0 && bytes > file_bytes / static_cast<uint64_t>(size))) {
      return absl::InvalidArgumentError("its shape is larger than the file");
    }
    bytes *= static_cast<uint64_t>(size);
  }
  if (info.begin > info.end || info.end > file_bytes || info.end - info.begin != bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("offsets ", info.begin, "..", info.end, " do not hold its ", bytes,
                     " bytes in a file of ", file_bytes, " (truncated?)"));
  }
  return absl::OkStatus();
}

// Where a tensor lies in its file.
struct Extent {
  uint64_t begin;
  uint64_t end;
  std::string tensor;
};

absl::Status CheckApart(const std::string& path, std::vector<Extent> extents) {
  std::sort(extents.begin(), extents.end(), [](const Extent& a, const Extent& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  for (size_t i = 1; i < extents.size(); ++i) {
    if (extents[i].begin >= extents[i - 1].end) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": tensor ", extents[i].tensor, " overlaps ", extents[i - 1].tensor));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::set<std::string>> ShardNames(const std::string& index_path) {
  std::ifstream file(index_path);
  const Json index = Json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(index_path, ": no 'weight_map'"));
  }
  std::set<std::string> names;
  for (const auto& [tensor, shard] : index["weight_map"].items()) {
    if (!shard.is_string() || shard.get<std::string>().find('/') != std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat(index_path, ": bad file name for ", tensor));
    }
    names.insert(shard.get<std::string>());
  }
  return names;
}

std::string ShapeText(at::IntArrayRef shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& dir) {
  Checkpoint checkpoint;
  const std::string single = dir + "/model.safetensors";
  const std::string index = dir + "/model.safetensors.index.json";
  if (std::filesystem::exists(single)) {
    MAYFLY_RETURN_IF_ERROR(checkpoint.AddFile(single));
    return checkpoint;
  }
  if (!std::filesystem::exists(index)) {
    return absl::NotFoundError(absl::StrCat("neither ", single, " nor its index exists"));
  }
  MAYFLY_ASSIGN_OR_RETURN(const std::set<std::string> shards, ShardNames(index));
  for (const std::string& shard : shards) {
    MAYFLY_RETURN_IF_ERROR(checkpoint.AddFile(absl::StrCat(dir, "/", shard)));
  }
  return checkpoint;
}

absl::StatusOr<Checkpoint> Checkpoint::OpenFile(const std::string& path) {
  Checkpoint checkpoint;
  MAYFLY_RETURN_IF_ERROR(checkpoint.AddFile(path));
  return checkpoint;
}

at::Tensor Checkpoint::Find(const std::string& name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? at::Tensor() : it->second.mapped;
}

absl::Status Checkpoint::AddFile(const std::string& path) {
  MAYFLY_ASSIGN_OR_RETURN(const std::shared_ptr<MappedFile> file, MappedFile::Open(path));
  MAYFLY_ASSIGN_OR_RETURN(const Header header, ReadHeader(path, file->bytes()));
  std::vector<Extent> extents;
  for (const auto& [name, json] : header.json.items()) {
    if (name == "__metadata__") continue;
    const absl::StatusOr<TensorInfo> info = ReadInfo(json);
    const absl::Status status = info.ok() ? CheckBytes(*info, header.data.size()) : info.status();
    if (!status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor ", name, ": ", std::string(status.message())));
    }
    extents.push_back({info->begin, info->end, name});
    char* const data = const_cast<char*>(header.data.data()) + info->begin;  // only ever read
    at::Tensor mapped = at::from_blob(
        data, info->shape, [file](void*) {}, at::TensorOptions().dtype(info->type));
    if (!tensors_.emplace(name, Entry{std::move(mapped)}).second) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": tensor ", name, " appears twice"));
    }
  }
  return CheckApart(path, std::move(extents));
}

absl::StatusOr<at::Tensor> Checkpoint::Take(const std::string& name, at::IntArrayRef shape,
                                            const at::TensorOptions& options) {
  const auto it = tensors_.find(name);
  if (it == tensors_.end()) {
    return absl::InvalidArgumentError(absl::StrCat("the checkpoint has no tensor ", name));
  }
  if (it->second.mapped.sizes() != shape) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " has shape ",
                                                   ShapeText(it->second.mapped.sizes()), ", not ",
                                                   ShapeText(shape)));
  }
  if (!at::isFloatingType(it->second.mapped.scalar_type())) {
    return absl::InvalidArgumentError(absl::StrCat("tensor ", name, " holds whole numbers (",
                                                   c10::toString(it->second.mapped.scalar_type()),
                                                   "), it must hold weights"));
  }
  it->second.taken = true;
  return it->second.mapped.to(options, /*non_blocking=*/false, /*copy=*/true);
}

uint64_t Checkpoint::Fingerprint() const {
  // FNV-1a, 64 bits (Fowler, Noll, Vo): the same on every machine.
  uint64_t hash = 0xcbf29ce484222325;
  const auto add = [&hash](absl::string_view bytes) {
    for (const char byte : bytes) {
      hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
    }
  };
  for (const auto& [name, entry] : tensors_) {
    const at::Tensor& tensor = entry.mapped;
    add(absl::StrCat(name, c10::toString(tensor.scalar_type()), ShapeText(tensor.sizes())));
    const absl::string_view bytes(static_cast<const char*>(tensor.const_data_ptr()),
                                  tensor.nbytes());
    add(bytes.substr(0, kSampledBytes));
    add(bytes.substr(bytes.size() - std::min(bytes.size(), kSampledBytes)));
  }
  return hash;
}

std::vector<std::string> Checkpoint::Unused() const {
  std::vector<std::string> names;
  for (const auto& [name, entry] : tensors_) {
    if (!entry.taken) names.push_back(name);
  }
  return names;
}

}  // namespace mayfly
