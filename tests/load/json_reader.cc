#include "tests/load/json_reader.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "google/protobuf/util/json_util.h"

namespace mayfly::load {

JsonReader::JsonReader(const Json& json, std::string path, absl::Status* status)
    : json_(json), path_(std::move(path)), status_(status) {
  if (json_.is_object()) {
    rest_ = json_;
  } else {
    Wants(path_.empty() ? "a scenario" : path_, "an object", json_);
  }
}

std::string JsonReader::PathOf(absl::string_view key) const {
  return path_.empty() ? std::string(key) : absl::StrCat(path_, ".", key);
}

void JsonReader::Fail(absl::string_view path, absl::string_view why) {
  if (status_->ok()) *status_ = absl::InvalidArgumentError(absl::StrCat(path, " ", why));
}

void JsonReader::Wants(absl::string_view path, absl::string_view what, const Json& given) {
  Fail(path, absl::StrCat("takes ", what, ", not ", given.dump()));
}

const Json* JsonReader::Member(const char* key) {
  if (!ok()) return nullptr;
  const auto found = json_.find(key);
  if (found == json_.end()) return nullptr;
  rest_.erase(key);
  return &*found;
}

bool JsonReader::ReadNumber(const Json& json, const std::string& path, double low, double high,
                            double* target) {
  if (json.is_number() && json.get<double>() >= low && json.get<double>() <= high) {
    *target = json.get<double>();
    return true;
  }
  Wants(path, absl::StrFormat("a number from %.15g to %.15g", low, high), json);
  return false;
}

void JsonReader::Number(const char* key, double low, double high, double* target) {
  if (const Json* member = Member(key)) ReadNumber(*member, PathOf(key), low, high, target);
}

void JsonReader::Number(const char* key, double low, double high, std::optional<double>* target) {
  double value = 0;
  const Json* member = Member(key);
  if (member != nullptr && ReadNumber(*member, PathOf(key), low, high, &value)) *target = value;
}

void JsonReader::Whole(const char* key, uint64_t low, uint64_t high, uint64_t* target) {
  const Json* member = Member(key);
  if (member == nullptr) return;
  const bool whole = member->is_number_unsigned();
  if (whole && member->get<uint64_t>() >= low && member->get<uint64_t>() <= high) {
    *target = member->get<uint64_t>();
  } else {
    Wants(PathOf(key), absl::StrCat("a whole number from ", low, " to ", high), *member);
  }
}

void JsonReader::Flag(const char* key, bool* target) {
  const Json* member = Member(key);
  if (member == nullptr) return;
  if (!member->is_boolean()) return Wants(PathOf(key), "true or false", *member);
  *target = member->get<bool>();
}

void JsonReader::Text(const char* key, std::string* target) {
  const Json* member = Member(key);
  if (member == nullptr) return;
  if (!member->is_string()) return Wants(PathOf(key), "text", *member);
  *target = member->get<std::string>();
}

void JsonReader::OneOrTwo(const char* key, double low, double high, std::optional<Range>* target) {
  const Json* member = Member(key);
  if (member == nullptr) return;
  const std::string path = PathOf(key);
  Range range;
  if (!member->is_array()) {
    if (ReadNumber(*member, path, low, high, &range.low)) *target = Range{range.low, range.low};
    return;
  }
  if (member->size() != 2) return Wants(path, "a number or [low, high]", *member);
  if (!ReadNumber((*member)[0], path + "[0]", low, high, &range.low)) return;
  if (ReadNumber((*member)[1], path + "[1]", range.low, high, &range.high)) *target = range;
}

void JsonReader::Rest(google::protobuf::Message* target) {
  if (!ok()) return;
  const auto parsed = google::protobuf::util::JsonStringToMessage(rest_.dump(), target);
  if (!parsed.ok()) Fail(path_ + ":", std::string(parsed.message()));
  rest_.clear();
}

void JsonReader::ExpectNoMore() {
  if (ok() && !rest_.empty()) Fail(PathOf(rest_.begin().key()), "is unknown");
}

}  // namespace mayfly::load
