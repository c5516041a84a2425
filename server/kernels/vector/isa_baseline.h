#ifndef NORMD_SERVER_KERNELS_VECTOR_ISA_BASELINE_H_
#define NORMD_SERVER_KERNELS_VECTOR_ISA_BASELINE_H_

#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include <cstring>

#include "server/kernels/half.h"

// What every machine of the architecture has: SSE2 on x86-64, NEON on aarch64; 2 doubles to a register, written with
// the compiler's vector types. The 16-bit types go through half.h's integer arithmetic. See v16.h for what an isa_*.h
// provides.
#define NORMD_KERNELS_ISA baseline

namespace normd::kernels::baseline {

typedef double Vec __attribute__((vector_size(16)));
typedef float FloatPair __attribute__((vector_size(8)));
inline constexpr int kVecLanes = 2;
#ifdef __x86_64__
// Rather small than fast: hardly a machine has nothing better.
inline constexpr bool kSkipsCenters = false;
#else
inline constexpr bool kSkipsCenters = true;
#endif

[[gnu::always_inline]] inline Vec LoadVec(const double* p) {
  Vec v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
[[gnu::always_inline]] inline Vec LoadVec(const float* p) {
  FloatPair pair;
  std::memcpy(&pair, p, sizeof pair);
  return __builtin_convertvector(pair, Vec);
}
template <typename Half>
[[gnu::always_inline]] inline Vec LoadVec(const Half* p) {
  return Vec{ToDouble(p[0]), ToDouble(p[1])};
}

template <bool kStream>
[[gnu::always_inline]] inline void StoreVecs(const Vec (&v)[8], double* p) {
  for (int i = 0; i < 8; ++i) {
#ifdef __SSE2__
    if constexpr (kStream) {
      _mm_stream_pd(p + 2 * i, v[i]);
      continue;
    }
#endif
    std::memcpy(p + 2 * i, &v[i], sizeof v[i]);
  }
}
template <bool kStream>
[[gnu::always_inline]] inline void StoreVecs(const Vec (&v)[8], float* p) {
  for (int i = 0; i < 8; i += 2) {
#ifdef __SSE2__
    const __m128 quad = _mm_movelh_ps(_mm_cvtpd_ps(v[i]), _mm_cvtpd_ps(v[i + 1]));
    if constexpr (kStream) {
      _mm_stream_ps(p + 2 * i, quad);
    } else {
      _mm_storeu_ps(p + 2 * i, quad);
    }
#else
    const FloatPair pair[2] = {__builtin_convertvector(v[i], FloatPair), __builtin_convertvector(v[i + 1], FloatPair)};
    std::memcpy(p + 2 * i, pair, sizeof pair);
#endif
  }
}
template <bool kStream, typename Half>
[[gnu::always_inline]] inline void StoreVecs(const Vec (&v)[8], Half* p) {
  for (int i = 0; i < 8; ++i) {
    FromDouble(v[i][0], p + 2 * i);
    FromDouble(v[i][1], p + 2 * i + 1);
  }
}

// There is no fused multiply-add here.
[[gnu::always_inline]] inline Vec AddByMultiplier(Vec a, Vec b) { return a + b; }
[[gnu::always_inline]] inline Vec SubtractByMultiplier(Vec a, Vec b) { return a - b; }
[[gnu::always_inline]] inline Vec AddExactProduct(Vec a, Vec b, Vec c) { return a * b + c; }

[[gnu::always_inline]] inline void FinishStreaming() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

}  // namespace normd::kernels::baseline

#endif  // NORMD_SERVER_KERNELS_VECTOR_ISA_BASELINE_H_
