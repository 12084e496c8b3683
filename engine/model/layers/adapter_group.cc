#include "engine/model/layers/adapter_group.h"

#include <algorithm>

namespace mayfly {

at::Tensor PoolOf(const AdapterView& adapter) {
  const at::Tensor& row = adapter.elements;
  const int64_t elements = row.numel();
  const int64_t bytes = static_cast<int64_t>(row.storage().nbytes());
  return row.as_strided({bytes / (row.element_size() * elements), elements}, {elements, 1}, 0);
}

int64_t PoolRowOf(const AdapterView& adapter) {
  return adapter.elements.storage_offset() / adapter.elements.numel();
}

bool InOnePool(const AdapterView& a, const AdapterView& b) {
  return a.elements.is_alias_of(b.elements);
}

void GroupOneTokenSegments(const Numerics& numerics, int64_t tokens,
                           std::vector<AdapterSegment>* segments, AdapterRows* rows) {
  if (numerics.kernels != nullptr) return;
  std::vector<AdapterSegment*> group;
  for (AdapterSegment& segment : *segments) {
    if (segment.tokens != 1 || segment.adapter == nullptr) continue;
    if (!group.empty() && !InOnePool(*group[0]->adapter, *segment.adapter)) return;
    group.push_back(&segment);
  }
  if (group.empty()) return;
  at::Tensor places = at::full({tokens}, -1, at::kLong);
  at::Tensor ranks = at::zeros({tokens}, at::kLong);
  at::Tensor scales = at::zeros({tokens}, at::kFloat);
  rows->pool = PoolOf(*group[0]->adapter);
  for (AdapterSegment* const segment : group) {
    const AdapterSpec& spec = segment->adapter->spec;
    places.mutable_data_ptr<int64_t>()[segment->begin] = PoolRowOf(*segment->adapter);
    ranks.mutable_data_ptr<int64_t>()[segment->begin] = spec.rank;
    scales.mutable_data_ptr<float>()[segment->begin] = static_cast<float>(spec.scale());
    rows->max_rank = std::max<int64_t>(rows->max_rank, spec.rank);
    segment->adapter = nullptr;
    segment->rows = rows;
  }
  rows->rows = places.to(numerics.device);
  rows->ranks = ranks.to(numerics.device);
  rows->scales = scales.to(numerics.device);
}

}  // namespace mayfly
