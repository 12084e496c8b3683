// The command-line client: builds the environment from the process and runs the command.

#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>

#include "client/app.h"

namespace mayfly::cli {
namespace {

// As shells report a process that SIGINT ended.
constexpr int kExitInterrupted = 130;
constexpr int kDefaultColumns = 80;

int TerminalColumns() {
  winsize size = {};
  const bool known = ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : kDefaultColumns;
}

int Main(int argc, char** argv) {
  const SteadyClock clock;
  Interrupts interrupts([] { _exit(kExitInterrupted); });
  const SignalWatcher watcher(interrupts);
  Environment env{std::cin, std::cout, std::cerr, clock, interrupts};
  if (const char* server = std::getenv("MAYFLY_SERVER")) env.server = server;
  env.in_is_terminal = isatty(STDIN_FILENO);
  env.out_is_terminal = isatty(STDOUT_FILENO);
  env.err_is_terminal = isatty(STDERR_FILENO);
  env.columns = TerminalColumns();
  return RunApp({argv + 1, argv + argc}, env);
}

}  // namespace
}  // namespace mayfly::cli

int main(int argc, char** argv) { return mayfly::cli::Main(argc, argv); }
