#include "engine/device/cuda/cuda_graph.h"

#include <c10/core/Event.h>
#include <c10/core/StreamGuard.h>
#include <c10/cuda/CUDAStream.h>

namespace mayfly::cuda {
namespace {

void Wait(c10::Stream waiting, c10::Stream awaited) {
  c10::Event event(c10::kCUDA);
  event.record(awaited);
  event.block(waiting);
}

}  // namespace

// The default stream cannot be captured, so a stream of its own is current meanwhile. Only this
// thread is watched: an update may go on allocating.
void CudaGraph::Capture(const std::function<void()>& work) {
  const c10::Stream outer = c10::cuda::getCurrentCUDAStream();
  const c10::Stream side = c10::cuda::getStreamFromPool(/*isHighPriority=*/true);
  Wait(side, outer);
  {
    const c10::StreamGuard current(side);
    graph_.capture_begin(pool_, cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (...) {
      // A stream that is left capturing would be of no use to anyone.
      try {
        graph_.capture_end();
      } catch (...) {
      }
      throw;
    }
    graph_.capture_end();
  }
  Wait(outer, side);
}

}  // namespace mayfly::cuda
