#pragma once

// Safetensors files, right and wrong, for the tests of what reads them.

#include <cstdint>
#include <cstring>
#include <fstream>
#include <sstream>
#include <string>

#include "nlohmann/json.hpp"

namespace mayfly {

// Eight bytes of length, the header, the data.
inline std::string SafetensorsBytes(const std::string& header, const std::string& data) {
  const uint64_t length = header.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + header + data;
}

inline std::string ReadBytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

// The same file with its header changed by `edit(nlohmann::json&)`.
template <typename Edit>
std::string WithHeader(const std::string& file, Edit&& edit) {
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof(length));
  nlohmann::json header = nlohmann::json::parse(file.substr(sizeof(length), length));
  edit(header);
  return SafetensorsBytes(header.dump(), file.substr(sizeof(length) + length));
}

}  // namespace mayfly
