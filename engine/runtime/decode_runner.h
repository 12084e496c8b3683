#pragma once

// Steps of which every row takes one token, from places that never move: copied in from pinned
// memory, run as a recorded graph where the device has graphs, copied out to pinned memory. One of
// a few batch sizes serves each step; what is left of it repeats the last row. Where an adapter
// lies in its pool is such an input too: which of a row's two copies serves changes between steps.
// Owned by the ModelRunner; the engine loop's thread.

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include <ATen/ATen.h>

#include "engine/device/graph_cache.h"
#include "engine/model/causal_lm.h"
#include "engine/pool/kv_pool.h"

namespace mayfly {

// One row's token.
struct DecodeToken {
  int64_t token = 0;
  int64_t row = 0;
  // In the row: so many keys are there already.
  int64_t position = 0;
  // Null: the base model.
  const AdapterView* adapter = nullptr;
};

// On the host, until the next step.
struct DecodeOutput {
  at::Tensor logits;       // [tokens, vocabulary] fp32
  at::Tensor log_sum_exp;  // [tokens] fp32
};

class DecodeRunner {
 public:
  DecodeRunner(const CausalLm* model, const KvPool* kv);

  // Whether Run takes these: there are not too many, and one pool has all adapters.
  static bool Takes(const std::vector<DecodeToken>& tokens);
  // Throws what libtorch throws.
  DecodeOutput Run(const std::vector<DecodeToken>& tokens);

  const GraphCache& graphs() const { return graphs_; }

 private:
  // The fixed places of one batch size.
  struct Places {
    at::Tensor host_inputs;  // [kInputs, bucket] int64, pinned
    at::Tensor host_scales;  // [bucket] fp32, pinned
    at::Tensor inputs;       // the same on the device
    at::Tensor scales;
    at::Tensor logits;  // [bucket, vocabulary] fp32
    at::Tensor log_sum_exp;
    at::Tensor host_logits;  // pinned
    at::Tensor host_log_sum_exp;
    DecodeBatch batch;  // views of the inputs
  };
  Places& PlacesOf(int64_t bucket);
  void UsePoolOf(const std::vector<DecodeToken>& tokens);
  static void Fill(const std::vector<DecodeToken>& tokens, Places& places);
  void Step(Places& places) const;

  const CausalLm* const model_;
  const KvPool* const kv_;
  // The pool that steps read adapters from, as long as no step has had another.
  at::Tensor pool_;
  int64_t max_rank_ = 0;
  std::map<int64_t, Places> places_;  // by bucket
  GraphCache graphs_;
};

}  // namespace mayfly
