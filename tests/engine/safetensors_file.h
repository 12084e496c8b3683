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

// The same file with every element of an F32 tensor multiplied.
inline std::string WithScaled(std::string file, const std::string& tensor, float factor) {
  uint64_t length = 0;
  std::memcpy(&length, file.data(), sizeof(length));
  const auto header = nlohmann::json::parse(file.substr(sizeof(length), length));
  const nlohmann::json& offsets = header.at(tensor).at("data_offsets");
  for (uint64_t at = offsets[0]; at < offsets[1]; at += sizeof(float)) {
    char* const place = file.data() + sizeof(length) + length + at;
    float value = 0;
    std::memcpy(&value, place, sizeof(value));
    value *= factor;
    std::memcpy(place, &value, sizeof(value));
  }
  return file;
}

}  // namespace mayfly
