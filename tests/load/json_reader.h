#pragma once

// Reads the members of one JSON object into variables and knows where it is in the file, so that
// every error names its place. The first error stays; after it nothing is read. Lives as long as a
// parse; one thread.

#include <initializer_list>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/proto_fields.h"
#include "google/protobuf/message.h"
#include "tests/load/draw.h"

namespace mayfly::load {

using cli::Json;

class JsonReader {
 public:
  // `path` is empty for the whole file. All outlive the reader.
  JsonReader(const Json& json, std::string path, absl::Status* status);

  // Each leaves its target alone where the member is absent.
  void Number(const char* key, double low, double high, double* target);
  void Number(const char* key, double low, double high, std::optional<double>* target);
  void Whole(const char* key, uint64_t low, uint64_t high, uint64_t* target);
  void Flag(const char* key, bool* target);
  void Text(const char* key, std::string* target);
  // A number, or [low, high].
  void OneOrTwo(const char* key, double low, double high, std::optional<Range>* target);
  // Every member that was not read, in protobuf's JSON form.
  void Rest(google::protobuf::Message* target);

  // The member, to be read by whoever knows its kind; nullptr when it is absent.
  const Json* Member(const char* key);
  std::string PathOf(absl::string_view key) const;
  const std::string& path() const { return path_; }

  bool ok() const { return status_->ok(); }
  void Fail(absl::string_view path, absl::string_view why);
  // An error if a member was never asked for.
  void ExpectNoMore();

 private:
  void Wants(absl::string_view path, absl::string_view what, const Json& given);
  bool ReadNumber(const Json& json, const std::string& path, double low, double high,
                  double* target);

  const Json& json_;
  const std::string path_;
  absl::Status* const status_;
  // Members that were not asked for yet.
  Json rest_;
};

}  // namespace mayfly::load
