#pragma once

// Command-line flags as a table: each names its value, its help and the place that takes it.
// `--name value`, `--name=value`, `--switch`; dashes inside a name may be written for underscores.

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "google/protobuf/message.h"

namespace mayfly::cli {

struct Flag {
  std::string name;
  // How the help names the value; empty for a switch.
  std::string value;
  std::string help;
  // Called once for each time the flag is given; a switch gets "true" or what follows its "=". An
  // error reads on after the flag's name: "takes a whole number, not 'x'".
  std::function<absl::Status(absl::string_view)> set;
};

struct FlagGroup {
  std::string title;
  std::vector<Flag> flags;
};

// The targets outlive the flags.
Flag SwitchFlag(std::string name, std::string help, bool* target);
Flag TextFlag(std::string name, std::string value, std::string help, std::string* target);
Flag NumberFlag(std::string name, std::string help, uint32_t* target);
// Sets the message's field of that name (by default the flag's own); see SetField. A plain bool is
// a switch; an optional one, whose absence means something, takes on or off.
Flag FieldFlag(std::string name, std::string help, google::protobuf::Message* target,
               const std::string& field_name = "");

// Sets what `arguments` say and returns the arguments that are no flags. "-" is none; after "--"
// none is.
absl::StatusOr<std::vector<std::string>> ParseFlags(const std::vector<FlagGroup>& groups,
                                                    const std::vector<std::string>& arguments);

// The groups with one line a flag.
std::string FlagHelp(const std::vector<FlagGroup>& groups);

}  // namespace mayfly::cli
