#ifndef NORMD_SERVER_KERNELS_VECTOR_ISA_AVX512_H_
#define NORMD_SERVER_KERNELS_VECTOR_ISA_AVX512_H_

#include <immintrin.h>

#include "server/kernels/half.h"

// AVX-512 (F, BW, DQ, VL) with F16C: 8 doubles to a register. See v16.h for what an isa_*.h provides.
#define NORMD_KERNELS_ISA avx512

namespace normd::kernels::avx512 {

typedef double Vec __attribute__((vector_size(64)));
inline constexpr int kVecLanes = 8;
inline constexpr bool kSkipsCenters = true;

[[gnu::always_inline]] inline Vec LoadVec(const double* p) { return _mm512_loadu_pd(p); }
[[gnu::always_inline]] inline Vec LoadVec(const float* p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
[[gnu::always_inline]] inline Vec LoadVec(const Float16* p) {
  return _mm512_cvtps_pd(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
[[gnu::always_inline]] inline Vec LoadVec(const BFloat16* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm512_cvtps_pd(_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
}

template <bool kStream>
[[gnu::always_inline]] inline void StoreVecs(const Vec (&v)[2], double* p) {
  if constexpr (kStream) {
    _mm512_stream_pd(p, v[0]);
    _mm512_stream_pd(p + 8, v[1]);
  } else {
    _mm512_storeu_pd(p, v[0]);
    _mm512_storeu_pd(p + 8, v[1]);
  }
}
// A whole cache line in one store.
template <bool kStream>
[[gnu::always_inline]] inline void StoreVecs(const Vec (&v)[2], float* p) {
  const __m512 all = _mm512_insertf32x8(_mm512_castps256_ps512(_mm512_cvtpd_ps(v[0])), _mm512_cvtpd_ps(v[1]), 1);
  if constexpr (kStream) {
    _mm512_stream_ps(p, all);
  } else {
    _mm512_storeu_ps(p, all);
  }
}
template <bool kStream>
[[gnu::always_inline]] inline void StoreHalves(__m128i low, __m128i high, void* p) {
  const __m256i all = _mm256_set_m128i(high, low);
  if constexpr (kStream) {
    _mm256_stream_si256(static_cast<__m256i*>(p), all);
  } else {
    _mm256_storeu_si256(static_cast<__m256i*>(p), all);
  }
}
[[gnu::always_inline]] inline __m128i PackFloat16(Vec v) {
  return _mm256_cvtps_ph(_mm512_cvtpd_ps(v), _MM_FROUND_TO_NEAREST_INT);
}
template <bool kStream>
[[gnu::always_inline]] inline void StoreVecs(const Vec (&v)[2], Float16* p) {
  StoreHalves<kStream>(PackFloat16(v[0]), PackFloat16(v[1]), p);
}
[[gnu::always_inline]] inline __m128i PackBFloat16(Vec v) {
  const __m256 f = _mm512_cvtpd_ps(v);
  const __m256i bits = _mm256_castps_si256(f);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  return _mm256_cvtepi32_epi16(_mm256_mask_mov_epi32(rounded, _mm256_cmp_ps_mask(f, f, _CMP_UNORD_Q), quiet));
}
template <bool kStream>
[[gnu::always_inline]] inline void StoreVecs(const Vec (&v)[2], BFloat16* p) {
  StoreHalves<kStream>(PackBFloat16(v[0]), PackBFloat16(v[1]), p);
}

// The compiler would make an addition of a multiplication by 1 that it sees.
[[gnu::always_inline]] inline Vec One() {
  Vec one = _mm512_set1_pd(1);
  asm("" : "+v"(one));
  return one;
}
[[gnu::always_inline]] inline Vec AddByMultiplier(Vec a, Vec b) { return _mm512_fmadd_pd(a, One(), b); }
[[gnu::always_inline]] inline Vec SubtractByMultiplier(Vec a, Vec b) { return _mm512_fnmadd_pd(b, One(), a); }
[[gnu::always_inline]] inline Vec AddExactProduct(Vec a, Vec b, Vec c) { return _mm512_fmadd_pd(a, b, c); }

[[gnu::always_inline]] inline void FinishStreaming() { _mm_sfence(); }

}  // namespace normd::kernels::avx512

#endif  // NORMD_SERVER_KERNELS_VECTOR_ISA_AVX512_H_
