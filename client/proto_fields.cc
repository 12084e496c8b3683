#include "client/proto_fields.h"

#include <cstdint>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace mayfly::cli {
namespace {

using google::protobuf::EnumDescriptor;
using google::protobuf::EnumValueDescriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// The names that mean something: value 0 is UNSPECIFIED in every enum.
std::vector<std::string> EnumValueNames(const EnumDescriptor* type) {
  std::vector<std::string> names;
  for (int i = 1; i < type->value_count(); ++i) names.push_back(EnumValueName(type->value(i)));
  return names;
}

const EnumValueDescriptor* FindEnumValue(const EnumDescriptor* type, absl::string_view name) {
  for (int i = 1; i < type->value_count(); ++i) {
    if (EnumValueName(type->value(i)) == name) return type->value(i);
  }
  return nullptr;
}

bool ParseNumber(absl::string_view text, double* number) { return absl::SimpleAtod(text, number); }
bool ParseNumber(absl::string_view text, bool* number) { return absl::SimpleAtob(text, number); }
template <typename Integer>
bool ParseNumber(absl::string_view text, Integer* number) {
  return absl::SimpleAtoi(text, number);
}

template <typename Number>
using Setter = void (Reflection::*)(Message*, const FieldDescriptor*, Number) const;

// Parses `text` and stores it through whichever of the two functions the field needs.
template <typename Number>
bool StoreNumber(Message* message, const FieldDescriptor* field, absl::string_view text,
                 Setter<Number> set, Setter<Number> add) {
  Number number;
  if (!ParseNumber(text, &number)) return false;
  (message->GetReflection()->*(field->is_repeated() ? add : set))(message, field, number);
  return true;
}

bool StoreText(Message* message, const FieldDescriptor* field, absl::string_view text) {
  const Reflection* access = message->GetReflection();
  if (field->is_repeated()) {
    access->AddString(message, field, std::string(text));
  } else {
    access->SetString(message, field, std::string(text));
  }
  return true;
}

bool StoreEnum(Message* message, const FieldDescriptor* field, absl::string_view text) {
  const EnumValueDescriptor* value = FindEnumValue(field->enum_type(), text);
  if (value == nullptr) return false;
  message->GetReflection()->SetEnum(message, field, value);
  return true;
}

bool Store(Message* message, const FieldDescriptor* field, absl::string_view text) {
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32:
      return StoreNumber<uint32_t>(message, field, text, &Reflection::SetUInt32,
                                   &Reflection::AddUInt32);
    case FieldDescriptor::CPPTYPE_UINT64:
      return StoreNumber<uint64_t>(message, field, text, &Reflection::SetUInt64,
                                   &Reflection::AddUInt64);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return StoreNumber<double>(message, field, text, &Reflection::SetDouble,
                                 &Reflection::AddDouble);
    case FieldDescriptor::CPPTYPE_BOOL:
      if (text == "on" || text == "off") text = text == "on" ? "true" : "false";
      return StoreNumber<bool>(message, field, text, &Reflection::SetBool, &Reflection::AddBool);
    case FieldDescriptor::CPPTYPE_STRING: return StoreText(message, field, text);
    case FieldDescriptor::CPPTYPE_ENUM: return StoreEnum(message, field, text);
    default: return false;
  }
}

std::string Expected(const FieldDescriptor* field) {
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64: return "a whole number, 0 or more";
    case FieldDescriptor::CPPTYPE_DOUBLE: return "a number";
    case FieldDescriptor::CPPTYPE_BOOL: return "on or off";
    case FieldDescriptor::CPPTYPE_ENUM:
      return absl::StrCat("one of ", absl::StrJoin(EnumValueNames(field->enum_type()), ", "));
    default: return "text";
  }
}

// A float has about six good digits; the rest of its double would be noise.
double SixDigits(float value) {
  double rounded = 0;
  return absl::SimpleAtod(absl::StrCat(value), &rounded) ? rounded : value;
}

// The value of a field, or of one element of a repeated field (index -1: not repeated).
Json FieldToJson(const Message& message, const FieldDescriptor* field, int i) {
  const Reflection* access = message.GetReflection();
  const bool one = i < 0;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32:
      return one ? access->GetUInt32(message, field) : access->GetRepeatedUInt32(message, field, i);
    case FieldDescriptor::CPPTYPE_UINT64:
      return one ? access->GetUInt64(message, field) : access->GetRepeatedUInt64(message, field, i);
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return one ? access->GetDouble(message, field) : access->GetRepeatedDouble(message, field, i);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return SixDigits(one ? access->GetFloat(message, field)
                           : access->GetRepeatedFloat(message, field, i));
    case FieldDescriptor::CPPTYPE_BOOL:
      return one ? access->GetBool(message, field) : access->GetRepeatedBool(message, field, i);
    case FieldDescriptor::CPPTYPE_STRING:
      return one ? access->GetString(message, field) : access->GetRepeatedString(message, field, i);
    case FieldDescriptor::CPPTYPE_ENUM:
      return EnumValueName(one ? access->GetEnum(message, field)
                               : access->GetRepeatedEnum(message, field, i));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return ToJson(one ? access->GetMessage(message, field)
                        : access->GetRepeatedMessage(message, field, i));
    default: return nullptr;
  }
}

// An optional field or an enum at zero was not said; a plain 0, false or "" is a value.
bool HasMeaningfulZero(const FieldDescriptor* field) {
  return !field->has_presence() && field->cpp_type() != FieldDescriptor::CPPTYPE_ENUM;
}

}  // namespace

std::string EnumValueName(const EnumValueDescriptor* value) {
  const absl::string_view zero = value->type()->value(0)->name();
  const size_t prefix = zero.size() - absl::string_view("UNSPECIFIED").size();
  return absl::AsciiStrToLower(value->name().substr(prefix));
}

std::string FieldValueHint(const FieldDescriptor* field) {
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_UINT32:
    case FieldDescriptor::CPPTYPE_UINT64: return "N";
    case FieldDescriptor::CPPTYPE_DOUBLE: return "X";
    case FieldDescriptor::CPPTYPE_BOOL: return "on|off";
    case FieldDescriptor::CPPTYPE_ENUM:
      return absl::StrJoin(EnumValueNames(field->enum_type()), "|");
    default: return "TEXT";
  }
}

absl::Status SetField(Message* message, const FieldDescriptor* field, absl::string_view text) {
  if (Store(message, field, text)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("takes ", Expected(field), ", not '", text, "'"));
}

Json ToJson(const Message& message) {
  const Reflection* access = message.GetReflection();
  Json json = Json::object();
  for (int f = 0; f < message.GetDescriptor()->field_count(); ++f) {
    const FieldDescriptor* field = message.GetDescriptor()->field(f);
    if (field->is_repeated()) {
      const int size = access->FieldSize(message, field);
      for (int i = 0; i < size; ++i) json[field->name()].push_back(FieldToJson(message, field, i));
    } else if (access->HasField(message, field) || HasMeaningfulZero(field)) {
      json[field->name()] = FieldToJson(message, field, -1);
    }
  }
  return json;
}

}  // namespace mayfly::cli
