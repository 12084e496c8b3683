#include "client/flags.h"

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "client/proto_fields.h"
#include "engine/base/log.h"

namespace mayfly::cli {
namespace {

const Flag* FindFlag(const std::vector<FlagGroup>& groups, absl::string_view name) {
  for (const FlagGroup& group : groups) {
    for (const Flag& flag : group.flags) {
      if (flag.name == name) return &flag;
    }
  }
  return nullptr;
}

// Letters to insert, drop or change to turn `a` into `b` (Levenshtein).
size_t EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 0; i < a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i + 1);
    for (size_t j = 0; j < b.size(); ++j) {
      const size_t changed = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({changed, row[j] + 1, diagonal + 1});
    }
  }
  return row.back();
}

absl::Status UnknownFlag(const std::vector<FlagGroup>& groups, absl::string_view name) {
  std::string nearest;
  size_t distance = 3;
  for (const FlagGroup& group : groups) {
    for (const Flag& flag : group.flags) {
      const size_t d = EditDistance(name, flag.name);
      if (d < distance) nearest = flag.name, distance = d;
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown flag --", name,
                   nearest.empty() ? "" : absl::StrCat("; did you mean --", nearest, "?")));
}

bool IsFlag(absl::string_view argument) { return argument.size() > 1 && argument[0] == '-'; }

// One argument of the form --name or --name=value.
struct GivenFlag {
  std::string name;
  std::optional<std::string> value;
};

GivenFlag Split(absl::string_view argument) {
  argument.remove_prefix(absl::StartsWith(argument, "--") ? 2 : 1);
  const size_t equals = argument.find('=');
  GivenFlag given{absl::StrReplaceAll(argument.substr(0, equals), {{"-", "_"}}), std::nullopt};
  if (equals != absl::string_view::npos) given.value = std::string(argument.substr(equals + 1));
  return given;
}

}  // namespace

Flag SwitchFlag(std::string name, std::string help, bool* target) {
  return {
      std::move(name), "", std::move(help), [target](absl::string_view text) {
        if (absl::SimpleAtob(text, target)) return absl::OkStatus();
        return absl::InvalidArgumentError(absl::StrCat("takes true or false, not '", text, "'"));
      }};
}

Flag TextFlag(std::string name, std::string value, std::string help, std::string* target) {
  return {std::move(name), std::move(value), std::move(help), [target](absl::string_view text) {
            *target = std::string(text);
            return absl::OkStatus();
          }};
}

Flag NumberFlag(std::string name, std::string help, uint32_t* target) {
  return {std::move(name), "N", std::move(help), [target](absl::string_view text) {
            if (absl::SimpleAtoi(text, target)) return absl::OkStatus();
            return absl::InvalidArgumentError(
                absl::StrCat("takes a whole number, 0 or more, not '", text, "'"));
          }};
}

Flag FieldFlag(std::string name, std::string help, google::protobuf::Message* target,
               const std::string& field_name) {
  using google::protobuf::FieldDescriptor;
  const FieldDescriptor* field =
      target->GetDescriptor()->FindFieldByName(field_name.empty() ? name : field_name);
  MAYFLY_CHECK(field != nullptr);
  const bool is_switch = field->type() == FieldDescriptor::TYPE_BOOL && !field->has_presence();
  return {std::move(name), is_switch ? "" : FieldValueHint(field), std::move(help),
          [target, field](absl::string_view text) { return SetField(target, field, text); }};
}

absl::StatusOr<std::vector<std::string>> ParseFlags(const std::vector<FlagGroup>& groups,
                                                    const std::vector<std::string>& arguments) {
  std::vector<std::string> others;
  for (auto argument = arguments.begin(); argument != arguments.end(); ++argument) {
    if (*argument == "--") {
      others.insert(others.end(), argument + 1, arguments.end());
      break;
    }
    if (!IsFlag(*argument)) {
      others.push_back(*argument);
      continue;
    }
    GivenFlag given = Split(*argument);
    const Flag* flag = FindFlag(groups, given.name);
    if (flag == nullptr) return UnknownFlag(groups, given.name);
    const bool is_switch = flag->value.empty();
    if (!given.value && !is_switch && ++argument == arguments.end()) {
      return absl::InvalidArgumentError(absl::StrCat("--", flag->name, " needs a value"));
    }
    if (!given.value) given.value = is_switch ? "true" : *argument;
    if (const absl::Status set = flag->set(*given.value); !set.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--", flag->name, " ", set.message()));
    }
  }
  return others;
}

std::string FlagHelp(const std::vector<FlagGroup>& groups) {
  std::string help;
  for (const FlagGroup& group : groups) {
    absl::StrAppend(&help, "\n", group.title, ":\n");
    for (const Flag& flag : group.flags) {
      const std::string left =
          absl::StrCat("--", flag.name, flag.value.empty() ? "" : " ", flag.value);
      // A long left side has a line of its own.
      const char* gap = left.size() > 26 ? "\n                            " : "";
      absl::StrAppendFormat(&help, "  %-26s%s  %s\n", left, gap, flag.help);
    }
  }
  return help;
}

}  // namespace mayfly::cli
