#pragma once

// What lies between matrix products, for the kernels; see kernels_impl.h for who includes it.

#include <type_traits>

#include "engine/device/cpu/kernels.h"
#include "engine/device/cpu/products.h"

namespace mayfly::cpu {
namespace {

// Calls run(Lanes, offset) over [0, count): whole registers first, then single elements.
struct WholeLanes {
  template <typename T>
  static Floats Get(const T* p) {
    return Load(p);
  }
  template <typename T>
  static void Put(T* p, Floats v) {
    Store(p, v);
  }
};
struct OneLane {
  template <typename T>
  static Floats Get(const T* p) {
    return Floats{} + Value(*p);
  }
  template <typename T>
  static void Put(T* p, Floats v) {
    Assign(p, v[0]);
  }
};
template <typename Run>
inline void ForLanes(int64_t count, const Run& run) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) run(WholeLanes{}, i);
  for (; i < count; ++i) run(OneLane{}, i);
}

template <typename X>
inline float InverseRms(const X* x, int64_t width, double eps) {
  return 1.0f / std::sqrt(Dot(x, x, width) / static_cast<float>(width) + static_cast<float>(eps));
}

void RmsNormKernel(ConstArray x, int64_t x_stride, const float* weight, double eps, int64_t rows,
                   int64_t width, Array y, int64_t y_stride) {
  WithType(x, [&](const auto* in) {
    WithType(y, [&](auto* out) {
      for (int64_t row = 0; row < rows; ++row, in += x_stride, out += y_stride) {
        const float s = InverseRms(in, width, eps);
        ForLanes(width, [&](auto lanes, int64_t i) {
          lanes.Put(out + i, lanes.Get(in + i) * s * lanes.Get(weight + i));
        });
      }
    });
  });
}

// y_i = w_i x_i s with s = (mean(x^2) + eps)^-1/2, so dx_i = s (w_i dy_i - x_i s^2 mean_j(w_j dy_j
// x_j)).
void RmsNormBackwardKernel(ConstArray x, int64_t x_stride, const float* weight, double eps,
                           int64_t rows, int64_t width, ConstArray dy, Array dx) {
  WithType(x, [&](const auto* in) {
    WithType(dy, [&](const auto* dout) {
      WithType(dx, [&](auto* out) {
        for (int64_t row = 0; row < rows; ++row, in += x_stride, dout += width, out += width) {
          const float s = InverseRms(in, width, eps);
          Floats sum = {};
          float rest = 0;
          ForLanes(width, [&](auto lanes, int64_t i) {
            const Floats product = lanes.Get(in + i) * lanes.Get(dout + i) * lanes.Get(weight + i);
            if constexpr (std::is_same_v<decltype(lanes), WholeLanes>) {
              sum += product;
            } else {
              rest += product[0];
            }
          });
          const float mean = (Sum(sum) + rest) / static_cast<float>(width);
          const float share = mean * s * s;
          ForLanes(width, [&](auto lanes, int64_t i) {
            const Floats weighted = lanes.Get(dout + i) * lanes.Get(weight + i);
            lanes.Put(out + i, (weighted - lanes.Get(in + i) * share) * s);
          });
        }
      });
    });
  });
}

inline Floats Sigmoid(Floats x) { return 1.0f / (1.0f + Exp(-x)); }

void SiluMulKernel(ConstArray gate_up, int64_t rows, int64_t width, Array y) {
  WithType(y, [&](auto* out) {
    using T = std::remove_pointer_t<decltype(out)>;
    const T* gate = static_cast<const T*>(gate_up.data);
    for (int64_t row = 0; row < rows; ++row, gate += 2 * width, out += width) {
      ForLanes(width, [&](auto lanes, int64_t i) {
        const Floats g = lanes.Get(gate + i);
        lanes.Put(out + i, g * Sigmoid(g) * lanes.Get(gate + width + i));
      });
    }
  });
}

void SiluMulBackwardKernel(ConstArray gate_up, ConstArray dy, int64_t rows, int64_t width,
                           Array dgate_up) {
  WithType(dgate_up, [&](auto* out) {
    using T = std::remove_pointer_t<decltype(out)>;
    const T* gate = static_cast<const T*>(gate_up.data);
    const T* d = static_cast<const T*>(dy.data);
    for (int64_t row = 0; row < rows; ++row, gate += 2 * width, out += 2 * width, d += width) {
      ForLanes(width, [&](auto lanes, int64_t i) {
        const Floats g = lanes.Get(gate + i), up = lanes.Get(gate + width + i),
                     dout = lanes.Get(d + i);
        const Floats sigmoid = Sigmoid(g);
        const Floats silu = g * sigmoid;
        // d silu(g) / dg = sigmoid(g) (1 + g (1 - sigmoid(g)))
        lanes.Put(out + i, dout * up * (sigmoid + silu * (1.0f - sigmoid)));
        lanes.Put(out + width + i, dout * silu);
      });
    }
  });
}

void RotateKernel(Array x, int64_t heads, int64_t head_dim, const float* cos, const float* sin,
                  float direction) {
  const int64_t half = head_dim / 2;
  WithType(x, [&](auto* head) {
    for (int64_t h = 0; h < heads; ++h, head += head_dim) {
      ForLanes(half, [&](auto lanes, int64_t i) {
        const Floats a = lanes.Get(head + i), b = lanes.Get(head + half + i);
        const Floats c = lanes.Get(cos + i), s = lanes.Get(sin + i) * direction;
        lanes.Put(head + i, a * c - b * s);
        lanes.Put(head + half + i, b * c + a * s);
      });
    }
  });
}

void AddKernel(const float* x, ConstArray y, int64_t count, float* sum) {
  WithType(y, [&](const auto* in) {
    ForLanes(count, [&](auto lanes, int64_t i) {
      lanes.Put(sum + i, lanes.Get(x + i) + lanes.Get(in + i));
    });
  });
}

void CopyKernel(ConstArray from, int64_t count, Array to) {
  WithType(from, [&](const auto* in) {
    WithType(to, [&](auto* out) {
      ForLanes(count, [&](auto lanes, int64_t i) { lanes.Put(out + i, lanes.Get(in + i)); });
    });
  });
}

template <typename X>
inline float Greatest(const X* x, int64_t count) {
  Floats highest = Floats{} - INFINITY;
  ForLanes(count, [&](auto lanes, int64_t i) { highest = Max(highest, lanes.Get(x + i)); });
  float best = highest[0];
  for (int64_t i = 1; i < kLanes; ++i) best = highest[i] > best ? highest[i] : best;
  return best;
}

float LogSumExpKernel(ConstArray x, int64_t count) {
  float result = 0;
  WithType(x, [&](const auto* in) {
    const float best = Greatest(in, count);
    Floats sum = {};
    float rest = 0;
    ForLanes(count, [&](auto lanes, int64_t i) {
      const Floats e = Exp(lanes.Get(in + i) - best);
      if constexpr (std::is_same_v<decltype(lanes), WholeLanes>) {
        sum += e;
      } else {
        rest += e[0];
      }
    });
    result = best + std::log(Sum(sum) + rest);
  });
  return result;
}

void SoftmaxWeightsKernel(const float* logits, int64_t count, float scale, float* weights) {
  const float best = Greatest(logits, count);
  ForLanes(count, [&](auto lanes, int64_t i) {
    lanes.Put(weights + i, Exp((lanes.Get(logits + i) - best) * scale));
  });
}

// d -log p(label) / d logits = softmax(logits) - onehot(label)
void CrossEntropyBackwardKernel(Array x, int64_t count, float log_sum_exp, int64_t label,
                                float weight) {
  WithType(x, [&](auto* logits) {
    const float at_label = weight * (std::exp(Value(logits[label]) - log_sum_exp) - 1.0f);
    ForLanes(count, [&](auto lanes, int64_t i) {
      lanes.Put(logits + i, Exp(lanes.Get(logits + i) - log_sum_exp) * weight);
    });
    Assign(logits + label, at_label);
  });
}

}  // namespace
}  // namespace mayfly::cpu
