#include "engine/device/stream.h"

#include <pthread.h>

#include <optional>
#include <utility>

#include <ATen/Parallel.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "absl/status/status.h"
#include "engine/base/mutex.h"
#include "engine/device/torch_guard.h"

namespace mayfly {
namespace {

// CUDA's lowest priority is its default, 0, and smaller numbers come first; c10 takes the nearest
// priority that a device has. A CPU has one stream, which is all that its guards ask for.
c10::Stream NewDeviceStream(at::Device device, StreamPriority priority) {
  return c10::impl::VirtualGuardImpl(device.type())
      .getNewStream(device, priority == StreamPriority::kDecode ? -1 : 0);
}

c10::Stream CurrentStream(at::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

}  // namespace

// Recorded once, by the thread whose work it stands for; then constant.
class Event::State {
 public:
  explicit State(at::Device device) : device_(device) {
    // c10's CPU has no events: there, recorded is done.
    if (!device.is_cpu()) device_event_.emplace(device.type());
  }

  void Record() {
    absl::Status status = RunGuarded("recording an event", [&] {
      if (device_event_) device_event_->record(CurrentStream(device_));
    });
    MutexLock lock(&mu_);
    status_ = std::move(status);
    recorded_ = true;
    recorded_now_.NotifyAll();
  }

  bool done() const {
    {
      MutexLock lock(&mu_);
      if (!recorded_) return false;
    }
    WaitUntilRecorded();
    return !device_event_ || device_event_->query();
  }

  // Throws where recording has failed: nobody may take work for done that is not.
  void WaitUntilRecorded() const {
    MutexLock lock(&mu_);
    while (!recorded_) recorded_now_.Wait(&mu_);
    TORCH_CHECK(status_.ok(), status_.ToString());
  }

  void Wait() const {
    WaitUntilRecorded();
    if (device_event_) device_event_->synchronize();
  }

  void MakeCurrentStreamWait() const {
    WaitUntilRecorded();
    if (device_event_) device_event_->block(CurrentStream(device_));
  }

 private:
  const at::Device device_;
  std::optional<c10::Event> device_event_;

  mutable Mutex mu_;
  mutable CondVar recorded_now_;
  bool recorded_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mu_);
};

Event Event::OfCurrentStream(at::Device device) {
  const auto state = std::make_shared<State>(device);
  state->Record();
  state->WaitUntilRecorded();
  return Event(state);
}

bool Event::done() const { return state_ == nullptr || state_->done(); }

void Event::Wait() const {
  if (state_ != nullptr) state_->Wait();
}

void Event::MakeCurrentStreamWait() const {
  if (state_ != nullptr) state_->MakeCurrentStreamWait();
}

StreamScope::StreamScope(at::Device device, StreamPriority priority)
    : device_(device), outer_(CurrentStream(device)), current_(NewDeviceStream(device, priority)) {
  if (device.is_cpu()) return;
  c10::Event before(device.type());
  before.record(outer_);
  before.block(current_.current_stream());
}

StreamScope::~StreamScope() {
  if (device_.is_cpu()) return;
  // A device that has failed has nothing left to order.
  RunGuarded("leaving a stream", [&] {
    c10::Event inside(device_.type());
    inside.record(current_.current_stream());
    inside.block(outer_);
  }).IgnoreError();
}

Stream::Stream(at::Device device, StreamOptions options)
    : device_(device),
      stream_(NewDeviceStream(device, options.priority)),
      work_(static_cast<size_t>(-1)),
      worker_([this, options = std::move(options), before = Event::OfCurrentStream(device)] {
        WorkerMain(options, before);
      }) {}

Stream::~Stream() {
  work_.Close();
  worker_.join();
}

void Stream::Run(std::function<void()> work) { work_.PostUnbounded(std::move(work)); }

Event Stream::Record() {
  auto state = std::make_shared<Event::State>(device_);
  Run([state] { state->Record(); });
  return Event(std::move(state));
}

void Stream::WorkerMain(const StreamOptions& options, const Event& before) {
  pthread_setname_np(pthread_self(), options.name.substr(0, 15).c_str());
  at::set_num_threads(options.threads);
  const c10::StreamGuard current(stream_);
  before.MakeCurrentStreamWait();
  while (true) {
    std::deque<std::function<void()>> work = work_.WaitAndTakeAll();
    if (work.empty()) break;
    for (; !work.empty(); work.pop_front()) work.front()();
  }
  // A device that has failed has nothing left to finish, and its user has been told by the work.
  RunGuarded("ending a stream", [&] { Event::OfCurrentStream(device_).Wait(); }).IgnoreError();
}

}  // namespace mayfly
