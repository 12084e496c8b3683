#include "engine/device/adapter_rows.h"

namespace mayfly {
namespace {

// Copies each token's A and B out of the pool: of max_rank rows, since those that an adapter does
// not use are zero.
void AddPlain(const at::Tensor& x, const AdapterRows& adapters,
              const std::vector<AdapterPlace>& places, const at::Tensor& y) {
  const int64_t tokens = x.size(0), in = x.size(1), rank = adapters.max_rank;
  const at::Tensor rows = adapters.rows.clamp_min(0);
  const at::Tensor none = adapters.rows.lt(0).unsqueeze(1);
  const auto part = [&](int64_t offset, int64_t width) {
    return adapters.pool.narrow(1, offset, rank * width)
        .index_select(0, rows)
        .view({tokens, rank, width})
        .to(x.scalar_type());
  };
  const at::Tensor scales = adapters.scales.unsqueeze(1);
  for (const AdapterPlace& place : places) {
    at::Tensor a = at::bmm(part(place.a, in), x.unsqueeze(2)).squeeze(2);
    a = a.to(at::kFloat).mul_(scales).masked_fill_(none, 0).to(x.scalar_type());
    at::Tensor out = y.narrow(1, place.y_begin, place.out);
    out.add_(at::bmm(a.unsqueeze(1), part(place.b, place.out)).squeeze(1));
  }
}

}  // namespace

void AddAdapterRows(const DeviceOps* ops, const at::Tensor& x, const AdapterRows& adapters,
                    const std::vector<AdapterPlace>& places, const at::Tensor& y) {
  if (!adapters.pool.defined()) return;
  if (ops != nullptr) {
    ops->AddAdapterRows(x, adapters, places, y);
  } else {
    AddPlain(x, adapters, places, y);
  }
}

}  // namespace mayfly
