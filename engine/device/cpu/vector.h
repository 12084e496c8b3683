#pragma once

// Vector registers and the two element types, for the kernels; see kernels_impl.h for who includes
// it. Written with the compiler's vector extensions, so that one text serves every instruction set;
// the only instructions named are the bfloat16 ones, which have no other spelling.

#ifdef MAYFLY_BFLOAT16_PRODUCTS
#include <immintrin.h>
#endif

#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#include "engine/device/cpu/kernels.h"

namespace mayfly::cpu {
namespace {

constexpr int64_t kLanes = MAYFLY_LANES;
using Floats = float __attribute__((vector_size(4 * MAYFLY_LANES)));
// The bits of as many floats, or pairs of bfloat16 numbers: the first in the lower half.
using Words = uint32_t __attribute__((vector_size(4 * MAYFLY_LANES)));
using HalfWords = uint16_t __attribute__((vector_size(2 * MAYFLY_LANES)));

struct BFloat16 {
  uint16_t bits;
};

// Elements that share a 32-bit word.
template <typename T>
constexpr int64_t kPerWord = 4 / sizeof(T);

template <typename To, typename From>
inline To Bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

template <typename V, typename T>
inline V LoadAs(const T* p) {
  V v;
  std::memcpy(&v, p, sizeof(v));
  return v;
}

// The nearest bfloat16 in the upper half of each word, ties to even; the lower half is rubbish. A
// NaN stays one: arithmetic makes only quiet ones, whose payload the carry cannot overflow.
template <typename V>
inline V RoundWords(V bits) {
  return bits + 0x7fff + ((bits >> 16) & 1);
}

inline float Value(float x) { return x; }
inline float Value(BFloat16 x) { return Bits<float>(static_cast<uint32_t>(x.bits) << 16); }
inline void Assign(float* p, float x) { *p = x; }
inline void Assign(BFloat16* p, float x) {
  p->bits = static_cast<uint16_t>(RoundWords(Bits<uint32_t>(x)) >> 16);
}

inline Floats Load(const float* p) { return LoadAs<Floats>(p); }
inline Floats Load(const BFloat16* p) {
  return Bits<Floats>(__builtin_convertvector(LoadAs<HalfWords>(p), Words) << 16);
}
inline void Store(float* p, Floats v) { std::memcpy(p, &v, sizeof(v)); }
inline void Store(BFloat16* p, Floats v) {
  const HalfWords half = __builtin_convertvector(RoundWords(Bits<Words>(v)) >> 16, HalfWords);
  std::memcpy(p, &half, sizeof(half));
}

// The word of two rows' elements: what a product takes from rows 2i and 2i + 1.
inline Words Pair(Floats first, Floats second) {
  return (RoundWords(Bits<Words>(first)) >> 16) | (RoundWords(Bits<Words>(second)) & 0xffff0000u);
}

// sum + a * b, the elements of a word multiplied in pairs and both added.
template <typename T>
inline Floats MultiplyAdd(Floats sum, Words a, Words b) {
  if constexpr (sizeof(T) == 4) {
    return sum + Bits<Floats>(a) * Bits<Floats>(b);
  } else {
#ifdef MAYFLY_BFLOAT16_PRODUCTS
    return _mm512_dpbf16_ps(sum, Bits<__m512bh>(a), Bits<__m512bh>(b));
#else
    sum += Bits<Floats>(a << 16) * Bits<Floats>(b << 16);
    return sum + Bits<Floats>(a & 0xffff0000u) * Bits<Floats>(b & 0xffff0000u);
#endif
  }
}

// The sum of the lanes. Halves are added until four are left: lane i to lane i + half.
using Floats4 = float __attribute__((vector_size(16)));
using Floats8 = float __attribute__((vector_size(32)));
using Floats16 = float __attribute__((vector_size(64)));

template <typename Half, typename V>
inline Half AddHalves(V v) {
  struct Halves {
    Half first, second;
  };
  const Halves halves = Bits<Halves>(v);
  return halves.first + halves.second;
}

inline float Sum(Floats4 v) { return (v[0] + v[2]) + (v[1] + v[3]); }
inline float Sum(Floats8 v) { return Sum(AddHalves<Floats4>(v)); }
inline float Sum(Floats16 v) { return Sum(AddHalves<Floats8>(v)); }

// Of two vectors that hold groups of 2 * kHalf lanes: each group's halves added, the groups of `a`
// before those of `b`.
template <int kHalf, int... kLane>
inline Floats AddGroupHalves(Floats a, Floats b, std::integer_sequence<int, kLane...>) {
  constexpr auto group = [](int lane) { return lane / kHalf * 2 * kHalf + lane % kHalf; };
  return __builtin_shufflevector(a, b, group(kLane)...) +
         __builtin_shufflevector(a, b, (group(kLane) + kHalf)...);
}

// Reduces kCount vectors, each of groups of 2 * kHalf lanes, to their sums: lane i is that of
// vector i, for kCount up to kLanes (a power of two).
template <int kCount, int kHalf>
inline Floats SumLanes(const Floats* v) {
  constexpr auto lanes = std::make_integer_sequence<int, kLanes>();
  if constexpr (kHalf == 0) {
    return v[0];
  } else {
    Floats half[(kCount + 1) / 2];
    for (int i = 0; i < (kCount + 1) / 2; ++i) {
      half[i] = AddGroupHalves<kHalf>(v[2 * i], v[kCount == 1 ? 0 : 2 * i + 1], lanes);
    }
    return SumLanes<(kCount + 1) / 2, kHalf / 2>(half);
  }
}

// totals[i] = Sum(v[i]), bit for bit: the same additions, of many vectors at a time. kCount is a
// power of two.
template <int kCount>
inline void Sums(const Floats* v, float* totals) {
  constexpr int kGroup = kCount < kLanes ? kCount : static_cast<int>(kLanes);
  for (int i = 0; i < kCount; i += kGroup) {
    const Floats sums = SumLanes<kGroup, static_cast<int>(kLanes) / 2>(v + i);
    std::memcpy(totals + i, &sums, kGroup * sizeof(float));
  }
}

inline Floats Max(Floats a, Floats b) { return a > b ? a : b; }

// exp(x) to 2 units in the last place of an fp32; 0 below -87. Cephes' polynomial (Moshier, 1992)
// after splitting off the power of two.
inline Floats Exp(Floats x) {
  constexpr float kLowest = -87.0f, kHighest = 88.0f;
  const Floats clamped =
      x < kLowest ? Floats{} + kLowest : (x > kHighest ? Floats{} + kHighest : x);
  constexpr float kRounder = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Floats shifted = clamped * 1.44269504f + kRounder;
  const Floats power = shifted - kRounder;
  const Floats r = clamped - power * 0.693359375f + power * 2.12194440e-4f;
  Floats p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Words exponent = (Bits<Words>(shifted) + 127)
                         << 23;  // the rounder's own bits are shifted out
  const Floats result = p * Bits<Floats>(exponent);
  // A comparison with NaN is false, so that NaN comes through.
  return x < kLowest ? Floats{} : (x == x ? result : x);
}

// Calls run(pointer of the array's type).
template <typename Run>
inline void WithType(ConstArray x, const Run& run) {
  if (x.type == Type::kBFloat16) {
    run(static_cast<const BFloat16*>(x.data));
  } else {
    run(static_cast<const float*>(x.data));
  }
}
template <typename Run>
inline void WithType(Array x, const Run& run) {
  if (x.type == Type::kBFloat16) {
    run(static_cast<BFloat16*>(x.data));
  } else {
    run(static_cast<float*>(x.data));
  }
}

}  // namespace
}  // namespace mayfly::cpu
