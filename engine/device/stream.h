#pragma once

// Orders work between the decode stream and the update streams, on every device with the same code.
// A Stream is a thread of its own that runs what it is given, in order, with a device stream
// current; an Event is a point in the work of one thread that others can wait for. On a CPU the
// work is done when its function returns; on a GPU functions only launch it, and events reach into
// the device. Each Stream belongs to one object, whose thread calls it; Events go anywhere.
//
// So an adapter is never read torn, and never overwritten while it is read:
//
//   update's work:  writes the shadow copy;     written = Event::OfCurrentStream(device)
//   loop, later:    written.MakeCurrentStreamWait();     makes the shadow the active copy
//                   left = Event::OfCurrentStream(device)     the steps that read the old copy
//   next update:    left.MakeCurrentStreamWait();     writes over the old copy
//
// Functions throw what libtorch throws where a comment says so; RunGuarded is around their callers.

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include <ATen/ATen.h>
#include <c10/core/StreamGuard.h>

#include "engine/base/mailbox.h"

namespace mayfly {

// A handle: copies are the same event. Any thread.
class Event {
 public:
  // Done from the start.
  Event() = default;
  // Done when the device has done all that this thread's current stream has been given so far.
  // Throws.
  static Event OfCurrentStream(at::Device device);

  // Throws if the device has failed.
  bool done() const;
  // Blocks this thread until done. Throws if the device has failed.
  void Wait() const;
  // Work that this thread gives to the event's device from now on starts after the event is done.
  // On a GPU this thread goes on, unless the event lies in a Stream's work that has not been
  // launched yet; on a CPU it blocks as Wait does. Throws.
  void MakeCurrentStreamWait() const;

 private:
  friend class Stream;
  class State;
  explicit Event(std::shared_ptr<State> state) : state_(std::move(state)) {}

  std::shared_ptr<State> state_;  // null: done
};

// Devices run what waits on streams of higher priority first. A CPU's threads share the cores.
enum class StreamPriority { kUpdate, kDecode };

// Gives this thread a device stream of its own for the length of a scope. What the thread has
// launched before the scope is done before what it launches inside, and that before what comes
// after.
class StreamScope {
 public:
  // Throws.
  StreamScope(at::Device device, StreamPriority priority);
  ~StreamScope();
  StreamScope(const StreamScope&) = delete;
  StreamScope& operator=(const StreamScope&) = delete;

 private:
  const at::Device device_;
  const c10::Stream outer_;
  c10::StreamGuard current_;
};

struct StreamOptions {
  StreamPriority priority = StreamPriority::kUpdate;
  // What at::parallel_for in the work may use.
  int32_t threads = 1;
  // Of the thread, as a debugger shows it; the system keeps 15 characters.
  std::string name = "stream";
};

class Stream {
 public:
  // Its work starts after all that this thread's current stream has been given so far. Throws.
  Stream(at::Device device, StreamOptions options);
  // Finishes what waits, on the device too. Nobody calls Run or Record any more.
  ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  // Enqueues and returns at once. An exception that leaves `work` ends the process: whoever gives
  // tensor work wraps it in RunGuarded and carries the status to where it belongs. `work` and what
  // it holds are destroyed before the next piece begins.
  void Run(std::function<void()> work);
  // Done when everything enqueued before is done, on the device too.
  Event Record();

 private:
  void WorkerMain(const StreamOptions& options, const Event& before);

  const at::Device device_;
  const c10::Stream stream_;
  Mailbox<std::function<void()>> work_;
  std::thread worker_;
};

}  // namespace mayfly
