#pragma once

// Gradient clipping and one fused AdamW step over the used parts of one row; every other byte of
// the pools stays as it is. Stateless; the thread that owns the row.

#include <cstdint>
#include <vector>

#include <ATen/ATen.h>

#include "engine/options.h"
#include "engine/pool/adapter_pool.h"
#include "engine/pool/slot_layout.h"

namespace mayfly {

// The global norm of `gradients` over `spans`. gradients: [elements] fp32.
double GradientNorm(const at::Tensor& gradients, const std::vector<Span>& spans);

// Scales `gradients` so that their norm is at most `max_norm`, as torch.nn.utils.clip_grad_norm_
// does (max_norm / (norm + 1e-6)). 0 clips nothing.
void ClipGradients(const at::Tensor& gradients, const std::vector<Span>& spans, double norm,
                   double max_norm);

// Step number `step` (from 1) on the row's masters and moments.
void AdamWStep(const AdamWOptions& options, int64_t step, const std::vector<Span>& spans,
               const at::Tensor& gradients, const AdapterState& state);

}  // namespace mayfly
