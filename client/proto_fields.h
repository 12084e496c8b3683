#pragma once

// Protobuf messages as a command line sees them: fields set from text, messages written as JSON
// with the field names of the contract. Both go through the messages' own descriptions, so a new
// field needs no code here.

#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"
#include "nlohmann/json.hpp"

namespace mayfly::cli {

// Keeps the order of insertion, which is the order in which people read.
using Json = nlohmann::ordered_json;

// The value's name without its enum's in front, in lower case: PRESET_PAPER is "paper".
std::string EnumValueName(const google::protobuf::EnumValueDescriptor* value);

// What `field` takes, for a help text: "N", "X", "on|off", "paper|balanced|off".
std::string FieldValueHint(const google::protobuf::FieldDescriptor* field);

// Sets a scalar field, or adds to a repeated one. An error says what the field takes.
absl::Status SetField(google::protobuf::Message* message,
                      const google::protobuf::FieldDescriptor* field, absl::string_view text);

// Numbers as numbers, enums as EnumValueName; without optional fields that are absent, enums that
// are unspecified and lists that are empty.
Json ToJson(const google::protobuf::Message& message);

}  // namespace mayfly::cli
