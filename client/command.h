#pragma once

// What every subcommand of `mayfly` is, and the world it runs in.

#include <istream>
#include <ostream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "client/flags.h"
#include "client/interrupts.h"
#include "engine/base/clock.h"

namespace mayfly::cli {

// The process around a command, replaced piece by piece in tests. Owned by main.
struct Environment {
  std::istream& in;
  std::ostream& out;
  std::ostream& err;
  const Clock& clock;
  Interrupts& interrupts;
  // The server, unless --server names another.
  std::string server = "127.0.0.1:7400";
  bool in_is_terminal = false;
  bool out_is_terminal = false;
  bool err_is_terminal = false;
  int columns = 80;
};

// One subcommand, for one run. Its flags write into its members; then it gets the arguments that
// are no flags; then it runs.
class Command {
 public:
  virtual ~Command() = default;

  virtual std::vector<FlagGroup> Flags() = 0;
  // Takes the arguments; an error is bad usage.
  virtual absl::Status SetArguments(const std::vector<std::string>& arguments) = 0;
  virtual absl::Status Run(Environment& env) = 0;
};

}  // namespace mayfly::cli
