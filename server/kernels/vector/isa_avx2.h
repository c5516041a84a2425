#ifndef NORMD_SERVER_KERNELS_VECTOR_ISA_AVX2_H_
#define NORMD_SERVER_KERNELS_VECTOR_ISA_AVX2_H_

#include <immintrin.h>

#include "server/kernels/half.h"

// AVX2 with F16C: 4 doubles to a register. See v16.h for what an isa_*.h provides.
#define NORMD_KERNELS_ISA avx2

namespace normd::kernels::avx2 {

typedef double Vec __attribute__((vector_size(32)));
inline constexpr int kVecLanes = 4;
inline constexpr bool kSkipsCenters = true;

[[gnu::always_inline]] inline Vec LoadVec(const double* p) { return _mm256_loadu_pd(p); }
[[gnu::always_inline]] inline Vec LoadVec(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
[[gnu::always_inline]] inline Vec LoadVec(const Float16* p) {
  return _mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}
[[gnu::always_inline]] inline Vec LoadVec(const BFloat16* p) {
  const __m128i wide = _mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
  return _mm256_cvtps_pd(_mm_castsi128_ps(_mm_slli_epi32(wide, 16)));
}

template <bool kStream>
[[gnu::always_inline]] inline void StoreVecs(const Vec (&v)[4], double* p) {
  for (int i = 0; i < 4; ++i) {
    if constexpr (kStream) {
      _mm256_stream_pd(p + 4 * i, v[i]);
    } else {
      _mm256_storeu_pd(p + 4 * i, v[i]);
    }
  }
}
template <bool kStream>
[[gnu::always_inline]] inline void StoreVecs(const Vec (&v)[4], float* p) {
  for (int i = 0; i < 4; i += 2) {
    const __m256 pair = _mm256_set_m128(_mm256_cvtpd_ps(v[i + 1]), _mm256_cvtpd_ps(v[i]));
    if constexpr (kStream) {
      _mm256_stream_ps(p + 4 * i, pair);
    } else {
      _mm256_storeu_ps(p + 4 * i, pair);
    }
  }
}
template <bool kStream>
[[gnu::always_inline]] inline void StoreBits(__m128i low, __m128i high, void* p) {
  const __m256i all = _mm256_set_m128i(high, low);
  if constexpr (kStream) {
    _mm256_stream_si256(static_cast<__m256i*>(p), all);
  } else {
    _mm256_storeu_si256(static_cast<__m256i*>(p), all);
  }
}
[[gnu::always_inline]] inline __m128i PackFloat16(Vec a, Vec b) {
  return _mm256_cvtps_ph(_mm256_set_m128(_mm256_cvtpd_ps(b), _mm256_cvtpd_ps(a)), _MM_FROUND_TO_NEAREST_INT);
}
template <bool kStream>
[[gnu::always_inline]] inline void StoreVecs(const Vec (&v)[4], Float16* p) {
  StoreBits<kStream>(PackFloat16(v[0], v[1]), PackFloat16(v[2], v[3]), p);
}
[[gnu::always_inline]] inline __m128i PackBFloat16(Vec a, Vec b) {
  const __m256 f = _mm256_set_m128(_mm256_cvtpd_ps(b), _mm256_cvtpd_ps(a));
  const __m256i bits = _mm256_castps_si256(f);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded =
      _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7FFF)), odd), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(0x40));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(f, f, _CMP_UNORD_Q));
  const __m256i upper = _mm256_blendv_epi8(rounded, quiet, is_nan);
  return _mm_packus_epi32(_mm256_castsi256_si128(upper), _mm256_extracti128_si256(upper, 1));
}
template <bool kStream>
[[gnu::always_inline]] inline void StoreVecs(const Vec (&v)[4], BFloat16* p) {
  StoreBits<kStream>(PackBFloat16(v[0], v[1]), PackBFloat16(v[2], v[3]), p);
}

// The compiler would make an addition of a multiplication by 1 that it sees.
[[gnu::always_inline]] inline Vec One() {
  Vec one = _mm256_set1_pd(1);
  asm("" : "+x"(one));
  return one;
}
[[gnu::always_inline]] inline Vec AddByMultiplier(Vec a, Vec b) { return _mm256_fmadd_pd(a, One(), b); }
[[gnu::always_inline]] inline Vec SubtractByMultiplier(Vec a, Vec b) { return _mm256_fnmadd_pd(b, One(), a); }
[[gnu::always_inline]] inline Vec AddExactProduct(Vec a, Vec b, Vec c) { return _mm256_fmadd_pd(a, b, c); }

[[gnu::always_inline]] inline void FinishStreaming() { _mm_sfence(); }

}  // namespace normd::kernels::avx2

#endif  // NORMD_SERVER_KERNELS_VECTOR_ISA_AVX2_H_
