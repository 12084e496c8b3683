#include "engine/runtime/decode_runner.h"

#include <algorithm>

#include "engine/device/host_tensor.h"
#include "engine/device/stream.h"
#include "engine/model/layers/adapter_group.h"

namespace mayfly {
namespace {

enum Input { kToken, kRow, kPosition, kAdapterRow, kAdapterRank, kInputs };

const AdapterView* FirstAdapter(const std::vector<DecodeToken>& tokens) {
  const auto found = std::find_if(tokens.begin(), tokens.end(),
                                  [](const DecodeToken& one) { return one.adapter != nullptr; });
  return found == tokens.end() ? nullptr : found->adapter;
}

}  // namespace

DecodeRunner::DecodeRunner(const CausalLm* model, const KvPool* kv)
    : model_(model), kv_(kv), graphs_(model->numerics().ops) {}

bool DecodeRunner::Takes(const std::vector<DecodeToken>& tokens) {
  if (!GraphCache::BucketFor(static_cast<int64_t>(tokens.size()))) return false;
  const AdapterView* const first = FirstAdapter(tokens);
  return std::all_of(tokens.begin(), tokens.end(), [&](const DecodeToken& one) {
    return one.adapter == nullptr || InOnePool(*one.adapter, *first);
  });
}

DecodeOutput DecodeRunner::Run(const std::vector<DecodeToken>& tokens) {
  const int64_t count = static_cast<int64_t>(tokens.size());
  const int64_t bucket = GraphCache::BucketFor(count).value();
  UsePoolOf(tokens);
  Places& places = PlacesOf(bucket);
  Fill(tokens, places);
  places.inputs.copy_(places.host_inputs, /*non_blocking=*/true);
  places.scales.copy_(places.host_scales, /*non_blocking=*/true);
  graphs_.Run(bucket, [&] { Step(places); });
  places.host_logits.copy_(places.logits, /*non_blocking=*/true);
  places.host_log_sum_exp.copy_(places.log_sum_exp, /*non_blocking=*/true);
  Event::OfCurrentStream(model_->numerics().device).Wait();
  return {places.host_logits.narrow(0, 0, count), places.host_log_sum_exp.narrow(0, 0, count)};
}

// A record holds the addresses of the pool that was there when it was made.
void DecodeRunner::UsePoolOf(const std::vector<DecodeToken>& tokens) {
  const AdapterView* const adapter = FirstAdapter(tokens);
  if (adapter == nullptr || (pool_.defined() && pool_.is_alias_of(adapter->elements))) return;
  pool_ = PoolOf(*adapter);
  max_rank_ = adapter->layout->max_rank();
  graphs_.Invalidate();
  for (auto& [bucket, places] : places_) {
    places.batch.adapters.pool = pool_;
    places.batch.adapters.max_rank = max_rank_;
  }
}

DecodeRunner::Places& DecodeRunner::PlacesOf(int64_t bucket) {
  const auto [it, is_new] = places_.try_emplace(bucket);
  Places& places = it->second;
  if (!is_new) return places;
  const at::Device device = model_->numerics().device;
  const int64_t vocabulary = model_->config().vocabulary;
  const at::TensorOptions floats = at::TensorOptions(device).dtype(at::kFloat);
  places.host_inputs = HostTensor({kInputs, bucket}, at::kLong, device);
  places.host_scales = HostTensor({bucket}, at::kFloat, device);
  places.host_logits = HostTensor({bucket, vocabulary}, at::kFloat, device);
  places.host_log_sum_exp = HostTensor({bucket}, at::kFloat, device);
  places.inputs = at::zeros({kInputs, bucket}, floats.dtype(at::kLong));
  places.scales = at::zeros({bucket}, floats);
  places.logits = at::zeros({bucket, vocabulary}, floats);
  places.log_sum_exp = at::zeros({bucket}, floats);
  places.batch = {
      places.inputs[kToken],
      places.inputs[kRow],
      places.inputs[kPosition],
      {pool_, places.inputs[kAdapterRow], places.inputs[kAdapterRank], places.scales, max_rank_}};
  return places;
}

void DecodeRunner::Fill(const std::vector<DecodeToken>& tokens, Places& places) {
  const int64_t bucket = places.host_inputs.size(1);
  int64_t* const inputs = places.host_inputs.mutable_data_ptr<int64_t>();
  float* const scales = places.host_scales.mutable_data_ptr<float>();
  for (int64_t i = 0; i < bucket; ++i) {
    const DecodeToken& one = tokens[std::min(static_cast<size_t>(i), tokens.size() - 1)];
    const auto set = [&](Input input, int64_t value) { inputs[input * bucket + i] = value; };
    set(kToken, one.token);
    set(kRow, one.row);
    set(kPosition, one.position);
    set(kAdapterRow, one.adapter != nullptr ? PoolRowOf(*one.adapter) : -1);
    set(kAdapterRank, one.adapter != nullptr ? one.adapter->spec.rank : 0);
    scales[i] = one.adapter != nullptr ? static_cast<float>(one.adapter->spec.scale()) : 0;
  }
}

void DecodeRunner::Step(Places& places) const {
  const at::Tensor hidden = model_->Decode(places.batch, *kv_);
  places.logits.copy_(model_->Logits(hidden));
  places.log_sum_exp.copy_(places.logits.logsumexp(1));
}

}  // namespace mayfly
