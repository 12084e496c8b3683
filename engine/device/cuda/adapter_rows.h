#pragma once

// The adapters of tokens whose rows differ, in two kernels: "shrink" to each adapter's rank and
// "expand" from it, as Punica (Chen et al., arXiv 2310.18547) and S-LoRA (Sheng et al., arXiv
// 2311.03285) split the work. Each token's A and B are read where they lie in the pool. Plain
// pointers, so that the CUDA compiler needs nothing of libtorch.

#include <cuda_runtime_api.h>

#include <cstdint>

namespace mayfly::cuda {

// Modules that read the same input.
inline constexpr int kMaxPlaces = 4;

struct AdapterRowsArgs {
  bool bfloat16 = false;  // of x, pool and y; fp32 otherwise
  int64_t tokens = 0;
  int64_t in = 0;
  const void* x = nullptr;  // [tokens, in]
  const void* pool = nullptr;
  int64_t row_elements = 0;        // from one row of the pool to the next
  const int64_t* rows = nullptr;   // [tokens]
  const int64_t* ranks = nullptr;  // [tokens]
  const float* scales = nullptr;   // [tokens]
  float* shrunk = nullptr;         // [places, tokens, max_rank], scratch
  int64_t max_rank = 0;
  void* y = nullptr;  // [tokens, y_stride]
  int64_t y_stride = 0;
  int places = 0;
  struct Place {
    int64_t a, b, y_begin, out;
  } place[kMaxPlaces] = {};
};

// Launches on `stream`.
cudaError_t LaunchAdapterRows(const AdapterRowsArgs& args, cudaStream_t stream);

}  // namespace mayfly::cuda
