// Sixteen doubles that are worked on together: order::kLanes of them, held in as many registers as the instruction set
// needs, so that every instruction set runs the same algorithm (rows.h, columns.h) in the same order.
//
// Included by kernels_*.cc after one isa_*.h, which defines NORMD_KERNELS_ISA, the namespace to be in, and in it
//   Vec, kVecLanes           a register of doubles, a GCC vector type
//   kSkipsCenters            whether there is code without a center, see operations.h
//   Vec LoadVec(const T*)    kVecLanes elements, any alignment; T: double, float, Float16, BFloat16
//   StoreVecs<kStream>(v, T*)
//                            16 elements, rounded as half.h says; kStream: past the caches, aligned to 16 * sizeof(T)
//   AddByMultiplier(a, b), SubtractByMultiplier(a, b)
//                            a + b and a - b by fused multiply-adds, if there are any
//   AddExactProduct(a, b, c) a * b + c where a * b has no more than 53 bits, so that fused or not is the same
//   FinishStreaming()        after stores past the caches
// No include guard on purpose: nothing but the three kernels_*.cc includes it, once each. No standard library here and
// in what builds on it but for memcpy: an inline function of it, compiled for a newer instruction set, could become the
// program's only copy.
#include <cstdint>
#include <cstring>

#include "server/kernels/half.h"
#include "server/kernels/order.h"

namespace normd::kernels::NORMD_KERNELS_ISA {

typedef int64_t Mask __attribute__((vector_size(sizeof(Vec))));
inline constexpr int kVecs = order::kLanes / kVecLanes;

// f(Index<0>()), f(Index<1>()), ... f(Index<kCount - 1>()). Unlike in a loop every index is a constant from the start,
// so that the compiler keeps arrays of vectors in registers.
template <int kIndex>
struct Index {
  [[gnu::always_inline]] constexpr operator int() const { return kIndex; }  // NOLINT(google-explicit-constructor)
};
template <int kCount, int kFrom = 0, typename F>
[[gnu::always_inline]] inline void Each(const F& f) {
  if constexpr (kFrom < kCount) {
    f(Index<kFrom>());
    Each<kCount, kFrom + 1>(f);
  }
}

inline bool OnAmd() {
#ifdef __x86_64__
  return __builtin_cpu_is("amd") != 0;
#else
  return false;
#endif
}

struct V16 {
  Vec v[kVecs];
};

template <typename T>
[[gnu::always_inline]] inline V16 Load(const T* p) {
  V16 out;
  Each<kVecs>([&](auto i) { out.v[i] = LoadVec(p + i * kVecLanes); });
  return out;
}

template <bool kStream, typename T>
[[gnu::always_inline]] inline void Store(const V16& a, T* p) {
  StoreVecs<kStream>(a.v, p);
}

[[gnu::always_inline]] inline V16 Set1(double value) {
  V16 out;
  Each<kVecs>([&](auto i) { out.v[i] = value - Vec{}; });
  return out;
}

[[gnu::always_inline]] inline V16 operator+(const V16& a, const V16& b) {
  V16 out;
  Each<kVecs>([&](auto i) { out.v[i] = a.v[i] + b.v[i]; });
  return out;
}
[[gnu::always_inline]] inline V16 operator-(const V16& a, const V16& b) {
  V16 out;
  Each<kVecs>([&](auto i) { out.v[i] = a.v[i] - b.v[i]; });
  return out;
}
[[gnu::always_inline]] inline V16 operator*(const V16& a, const V16& b) {
  V16 out;
  Each<kVecs>([&](auto i) { out.v[i] = a.v[i] * b.v[i]; });
  return out;
}

// a + b and a - b, the same bits, as a * 1 + b from the units that multiply. AMD's Zen converts and adds in one pair of
// units and multiplies in another; sums are 5 to 9 % faster where both have as much to do.
[[gnu::always_inline]] inline V16 AddByMultiplier(const V16& a, const V16& b) {
  V16 out;
  Each<kVecs>([&](auto i) { out.v[i] = AddByMultiplier(a.v[i], b.v[i]); });
  return out;
}
[[gnu::always_inline]] inline V16 SubtractByMultiplier(const V16& a, const V16& b) {
  V16 out;
  Each<kVecs>([&](auto i) { out.v[i] = SubtractByMultiplier(a.v[i], b.v[i]); });
  return out;
}
[[gnu::always_inline]] inline V16 AddExactProduct(const V16& a, const V16& b, const V16& c) {
  V16 out;
  Each<kVecs>([&](auto i) { out.v[i] = AddExactProduct(a.v[i], b.v[i], c.v[i]); });
  return out;
}

// v bounded to [-bound, bound]; NaN stays.
[[gnu::always_inline]] inline V16 Clamp(const V16& v, double bound) {
  const Vec high = bound - Vec{};
  V16 out;
  Each<kVecs>([&](auto i) {
    const Vec below = v.v[i] > high ? high : v.v[i];
    out.v[i] = below < -high ? -high : below;
  });
  return out;
}

// value, or 0 where |v| > bound.
[[gnu::always_inline]] inline V16 ZeroBeyond(const V16& v, double bound, const V16& value) {
  const Vec high = bound - Vec{};
  V16 out;
  Each<kVecs>([&](auto i) {
    const Vec below = v.v[i] > high ? Vec{} : value.v[i];
    out.v[i] = v.v[i] < -high ? Vec{} : below;
  });
  return out;
}

[[gnu::always_inline]] inline Mask LaneNumbers(int64_t first) {
  Mask lanes;
  for (int j = 0; j < kVecLanes; ++j) lanes[j] = first + j;
  return lanes;
}

// a in lanes below `count`, b in the others.
[[gnu::always_inline]] inline V16 FirstLanes(int64_t count, const V16& a, const V16& b) {
  V16 out;
  Each<kVecs>([&](auto i) {
    const Mask first = LaneNumbers(i * kVecLanes) < (Mask{} + count);
    out.v[i] = first ? a.v[i] : b.v[i];
  });
  return out;
}

// Sixteen lanes that are all ones or all zeros: ones below `count`.
struct M16 {
  Mask v[kVecs];
};
[[gnu::always_inline]] inline M16 LaneMask(int64_t count) {
  M16 out;
  Each<kVecs>([&](auto i) { out.v[i] = LaneNumbers(i * kVecLanes) < (Mask{} + count); });
  return out;
}
// a where the mask is set, +0 elsewhere.
[[gnu::always_inline]] inline V16 ZeroOutside(const M16& mask, const V16& a) {
  V16 out;
  Each<kVecs>([&](auto i) { out.v[i] = reinterpret_cast<Vec>(reinterpret_cast<Mask>(a.v[i]) & mask.v[i]); });
  return out;
}

// `count` (< 16) elements from p, the rest zeros, without touching what lies behind them.
template <typename T>
[[gnu::always_inline]] inline V16 LoadSome(const T* p, int64_t count) {
  alignas(64) T buffer[order::kLanes] = {};
  std::memcpy(buffer, p, static_cast<size_t>(count) * sizeof(T));
  return Load(buffer);
}

// The first `count` lanes to p.
template <typename T>
[[gnu::always_inline]] inline void StoreSome(const V16& a, T* p, int64_t count) {
  alignas(64) T buffer[order::kLanes];
  Store<false>(a, buffer);
  std::memcpy(p, buffer, static_cast<size_t>(count) * sizeof(T));
}

// The order of order.h: lane i += lane i + 8, then + 4, + 2, + 1.
[[gnu::always_inline]] inline double AddLanes(const V16& a) {
  alignas(64) double lanes[order::kLanes];
  Store<false>(a, lanes);
  for (int half = order::kLanes / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

}  // namespace normd::kernels::NORMD_KERNELS_ISA
