// DeviceOps for CUDA, and the one name that the library exports.

#include <algorithm>

#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAStream.h>

#include "engine/device/cuda/adapter_rows.h"
#include "engine/device/cuda/cuda_graph.h"
#include "engine/device/device_ops.h"

namespace mayfly::cuda {
namespace {

// The oldest GPUs that CMakeLists.txt compiles for: bf16 arithmetic begins there.
constexpr int kOldestMajor = 8;

class CudaOps final : public DeviceOps {
 public:
  void AddAdapterRows(const at::Tensor& x, const AdapterRows& adapters,
                      const std::vector<AdapterPlace>& places, const at::Tensor& y) const override;
  std::unique_ptr<DeviceGraph> NewGraph() const override {
    return std::make_unique<CudaGraph>(graph_pool_);
  }

 private:
  const at::cuda::MempoolId_t graph_pool_ = at::cuda::graph_pool_handle();
};

void CudaOps::AddAdapterRows(const at::Tensor& x, const AdapterRows& adapters,
                             const std::vector<AdapterPlace>& places, const at::Tensor& y) const {
  const at::ScalarType type = adapters.pool.scalar_type();
  TORCH_CHECK(type == at::kBFloat16 || type == at::kFloat, "adapters are ", type);
  TORCH_CHECK(x.scalar_type() == type && y.scalar_type() == type && x.is_contiguous() &&
                  y.stride(1) == 1 && adapters.pool.is_contiguous(),
              "adapters, input and output differ in type or are not dense");
  TORCH_CHECK(places.size() <= kMaxPlaces, places.size(), " modules read one input");
  if (x.size(0) == 0 || places.empty()) return;
  const at::Tensor shrunk =
      at::empty({static_cast<int64_t>(places.size()), x.size(0), adapters.max_rank},
                x.options().dtype(at::kFloat));
  AdapterRowsArgs args{.bfloat16 = type == at::kBFloat16,
                       .tokens = x.size(0),
                       .in = x.size(1),
                       .x = x.const_data_ptr(),
                       .pool = adapters.pool.const_data_ptr(),
                       .row_elements = adapters.pool.size(1),
                       .rows = adapters.rows.const_data_ptr<int64_t>(),
                       .ranks = adapters.ranks.const_data_ptr<int64_t>(),
                       .scales = adapters.scales.const_data_ptr<float>(),
                       .shrunk = shrunk.mutable_data_ptr<float>(),
                       .max_rank = adapters.max_rank,
                       .y = y.mutable_data_ptr(),
                       .y_stride = y.stride(0),
                       .places = static_cast<int>(places.size())};
  std::transform(places.begin(), places.end(), args.place, [](const AdapterPlace& place) {
    return AdapterRowsArgs::Place{place.a, place.b, place.y_begin, place.out};
  });
  C10_CUDA_CHECK(LaunchAdapterRows(args, c10::cuda::getCurrentCUDAStream()));
}

}  // namespace
}  // namespace mayfly::cuda

extern "C" __attribute__((visibility("default"))) const mayfly::DeviceOps* MayflyDeviceOps(
    int version, at::Device device) {
  if (version != mayfly::kDeviceOpsVersion) return nullptr;
  int major = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device.index()));
  if (major < mayfly::cuda::kOldestMajor) return nullptr;
  static const mayfly::cuda::CudaOps ops;
  return &ops;
}
