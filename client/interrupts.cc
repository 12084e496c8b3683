#include "client/interrupts.h"

#include <csignal>
#include <initializer_list>
#include <utility>

namespace mayfly::cli {
namespace {

// Tells the watcher to stop; means nothing else to this process.
constexpr int kStopSignal = SIGUSR1;

sigset_t SignalSet(std::initializer_list<int> signals) {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : signals) sigaddset(&set, signal);
  return set;
}

void Watch(Interrupts& interrupts) {
  const sigset_t interrupt = SignalSet({SIGINT});
  const sigset_t awaited = SignalSet({SIGINT, kStopSignal});
  int signal = 0;
  while (sigwait(&awaited, &signal) == 0 && signal == SIGINT) {
    // Should cancelling hang, the next Ctrl-C has its default effect.
    pthread_sigmask(SIG_UNBLOCK, &interrupt, nullptr);
    interrupts.Raise();
    pthread_sigmask(SIG_BLOCK, &interrupt, nullptr);
  }
}

}  // namespace

Interrupts::Interrupts(std::function<void()> end_process) : end_process_(std::move(end_process)) {}

void Interrupts::Raise() {
  MutexLock lock(&mu_);
  const std::function<void()> cancel = std::exchange(cancel_, nullptr);
  cancel ? cancel() : end_process_();
}

Interrupts::Scope::Scope(Interrupts& interrupts, std::function<void()> cancel)
    : interrupts_(interrupts) {
  MutexLock lock(&interrupts_.mu_);
  interrupts_.cancel_ = [this, cancel = std::move(cancel)] {
    interrupted_ = true;
    cancel();
  };
}

Interrupts::Scope::~Scope() {
  MutexLock lock(&interrupts_.mu_);
  interrupts_.cancel_ = nullptr;
}

SignalWatcher::SignalWatcher(Interrupts& interrupts) {
  const sigset_t awaited = SignalSet({SIGINT, kStopSignal});
  pthread_sigmask(SIG_BLOCK, &awaited, nullptr);
  thread_ = std::thread([&interrupts] { Watch(interrupts); });
}

SignalWatcher::~SignalWatcher() {
  pthread_kill(thread_.native_handle(), kStopSignal);
  thread_.join();
}

}  // namespace mayfly::cli
