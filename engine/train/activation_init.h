#pragma once

// A from the data (Paischer et al., "Parameter Efficient Fine-tuning via Explained Variance
// Adaptation", arXiv 2410.07170): its rows are the right singular vectors of the inputs that a
// module sees, those of the largest singular values. B stays zero, so that no output changes.
// Stateless; the thread that owns the row.

#include <cstdint>

#include <ATen/ATen.h>

#include "engine/model/causal_lm.h"

namespace mayfly {

// x: [n, in], any float type -> [rank, in] fp32, orthonormal rows: the leading right singular
// vectors of x, largest first, by randomized subspace iteration (Halko, Martinsson, Tropp, arXiv
// 0909.4061, algorithms 4.4 and 5.1). Rows beyond the rank of x are arbitrary. The same seed gives
// the same vectors. REQUIRES: rank <= in.
at::Tensor TopDirections(const at::Tensor& x, int64_t rank, uint64_t seed);

// Whether every B is zero: the adapter has learned nothing, or nothing that was kept.
bool IsFresh(const AdapterView& adapter);

// Sets A of every adapted module from what segment number `segment` of a training pass saw there.
// trace: after CausalLm::TrainForward. `adapter` views fp32 masters.
void SetFromActivations(const CausalLm& model, const TrainingTrace& trace, size_t segment,
                        const AdapterView& adapter);

}  // namespace mayfly
