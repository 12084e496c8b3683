#include <cuda_bf16.h>

#include "engine/device/cuda/adapter_rows.h"

namespace mayfly::cuda {
namespace {

constexpr int kWarp = 32;
// Of a block of the shrink kernel: each computes one rank of one token.
constexpr int kWarps = 8;
// Of a block of the expand kernel.
constexpr int kExpandThreads = 128;

__device__ float ToFloat(float x) { return x; }
__device__ float ToFloat(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ void Store(float x, float* to) { *to = x; }
__device__ void Store(float x, __nv_bfloat16* to) { *to = __float2bfloat16(x); }

// kWidth elements that one thread moves at a time; 16 bytes where everything is so aligned.
template <typename T, int kWidth>
struct alignas(sizeof(T) * kWidth) Pack {
  T value[kWidth];
};

// shrunk[place, token, rank] = scale * (A[rank] . x[token]). Grid: (ranks / kWarps, tokens,
// places); block: (kWarp, kWarps).
template <typename T, int kWidth>
__global__ void Shrink(const AdapterRowsArgs args) {
  const int64_t token = blockIdx.y;
  const int64_t rank = int64_t{blockIdx.x} * kWarps + threadIdx.y;
  const int64_t row = args.rows[token];
  if (row < 0 || rank >= args.ranks[token]) return;
  using P = Pack<T, kWidth>;
  const P* const a =
      reinterpret_cast<const P*>(static_cast<const T*>(args.pool) + row * args.row_elements +
                                 args.place[blockIdx.z].a + rank * args.in);
  const P* const x = reinterpret_cast<const P*>(static_cast<const T*>(args.x) + token * args.in);
  float sum = 0;
  for (int64_t i = threadIdx.x; i < args.in / kWidth; i += kWarp) {
    const P a_pack = a[i], x_pack = x[i];
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum += ToFloat(a_pack.value[j]) * ToFloat(x_pack.value[j]);
  }
  for (int step = kWarp / 2; step > 0; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
  if (threadIdx.x == 0) {
    args.shrunk[(blockIdx.z * args.tokens + token) * args.max_rank + rank] =
        sum * args.scales[token];
  }
}

// y[token, columns of place] += shrunk[place, token] B. Grid: (widest out / (kExpandThreads *
// kWidth), tokens, places). Neighbouring threads read neighbouring columns of B.
template <typename T, int kWidth>
__global__ void Expand(const AdapterRowsArgs args) {
  extern __shared__ float shrunk[];
  const int64_t token = blockIdx.y;
  const int64_t row = args.rows[token];
  if (row < 0) return;
  const AdapterRowsArgs::Place place = args.place[blockIdx.z];
  const int64_t rank = args.ranks[token];
  const float* const from = args.shrunk + (blockIdx.z * args.tokens + token) * args.max_rank;
  for (int64_t r = threadIdx.x; r < rank; r += kExpandThreads) shrunk[r] = from[r];
  __syncthreads();
  const int64_t column = (int64_t{blockIdx.x} * kExpandThreads + threadIdx.x) * kWidth;
  if (column >= place.out) return;
  using P = Pack<T, kWidth>;
  const T* const b = static_cast<const T*>(args.pool) + row * args.row_elements + place.b + column;
  float sum[kWidth] = {};
  for (int64_t r = 0; r < rank; ++r) {
    const P b_pack = *reinterpret_cast<const P*>(b + r * place.out);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum[j] += shrunk[r] * ToFloat(b_pack.value[j]);
  }
  P* const y = reinterpret_cast<P*>(static_cast<T*>(args.y) + token * args.y_stride +
                                    place.y_begin + column);
  P y_pack = *y;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) Store(ToFloat(y_pack.value[j]) + sum[j], &y_pack.value[j]);
  *y = y_pack;
}

bool IsMultiple(const void* pointer, size_t bytes) {
  return reinterpret_cast<uintptr_t>(pointer) % bytes == 0;
}

// Whether all that a thread reads as one pack of `width` elements is aligned to it.
template <typename T>
bool Fits(const AdapterRowsArgs& args, int width) {
  const size_t bytes = width * sizeof(T);
  bool fits = IsMultiple(args.x, bytes) && IsMultiple(args.pool, bytes) &&
              IsMultiple(args.y, bytes) && args.in % width == 0 && args.row_elements % width == 0 &&
              args.y_stride % width == 0;
  for (int i = 0; i < args.places; ++i) {
    const AdapterRowsArgs::Place& place = args.place[i];
    fits = fits && place.a % width == 0 && place.b % width == 0 && place.y_begin % width == 0 &&
           place.out % width == 0;
  }
  return fits;
}

unsigned CeilDivide(int64_t a, int64_t b) { return static_cast<unsigned>((a + b - 1) / b); }

template <typename T, int kWidth>
cudaError_t Launch(const AdapterRowsArgs& args, cudaStream_t stream) {
  const unsigned tokens = static_cast<unsigned>(args.tokens);
  const unsigned places = static_cast<unsigned>(args.places);
  Shrink<T, kWidth>
      <<<dim3(CeilDivide(args.max_rank, kWarps), tokens, places), dim3(kWarp, kWarps), 0, stream>>>(
          args);
  int64_t widest = 0;
  for (int i = 0; i < args.places; ++i) {
    widest = args.place[i].out > widest ? args.place[i].out : widest;
  }
  Expand<T, kWidth><<<dim3(CeilDivide(widest, kExpandThreads * kWidth), tokens, places),
                      kExpandThreads, args.max_rank * sizeof(float), stream>>>(args);
  return cudaGetLastError();
}

template <typename T>
cudaError_t LaunchWidest(const AdapterRowsArgs& args, cudaStream_t stream) {
  constexpr int kWidest = 16 / sizeof(T);
  return Fits<T>(args, kWidest) ? Launch<T, kWidest>(args, stream) : Launch<T, 1>(args, stream);
}

}  // namespace

cudaError_t LaunchAdapterRows(const AdapterRowsArgs& args, cudaStream_t stream) {
  return args.bfloat16 ? LaunchWidest<__nv_bfloat16>(args, stream)
                       : LaunchWidest<float>(args, stream);
}

}  // namespace mayfly::cuda
