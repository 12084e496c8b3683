#pragma once

// Sees the adapters of several segments as rows of one pool, so that a device applies them
// together. Pure functions; any thread.

#include <vector>

#include <ATen/ATen.h>

#include "engine/device/device_ops.h"
#include "engine/device/numerics.h"
#include "engine/model/layers/lora_linear.h"

namespace mayfly {

// The pool that an adapter's elements are a row of: [rows, elements], and which row they are.
at::Tensor PoolOf(const AdapterView& adapter);
int64_t PoolRowOf(const AdapterView& adapter);
bool InOnePool(const AdapterView& a, const AdapterView& b);

// Collects the adapters of the one-token segments of a batch of `tokens` in `rows`, and lets those
// segments name `rows` in place of an adapter of their own. Does nothing where nothing is gained by
// it: on the CPU, whose kernels take segments as they are, or for adapters of more than one pool.
void GroupOneTokenSegments(const Numerics& numerics, int64_t tokens,
                           std::vector<AdapterSegment>* segments, AdapterRows* rows);

}  // namespace mayfly
