#include "tests/benchmarks/memory_limits.h"

#include <immintrin.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "server/kernels/parallel.h"

namespace normd::benchmarks {
namespace {

// f(begin, end) for each thread's part, in whole cache lines.
template <typename F>
void Split(int threads, size_t count, const F& f) {
  struct Body {
    size_t lines;
    const F& f;
    void operator()(int rank, int size) const {
      const kernels::Part part(static_cast<int64_t>(lines), rank, size);
      f(static_cast<size_t>(part.begin) * 16, static_cast<size_t>(part.end) * 16);
    }
  } body{count / 16, f};
  kernels::RunTeam(threads, &body);
}

template <bool kStream>
[[gnu::target("avx2")]] void Copy256(const float* from, float* to, size_t begin, size_t end) {
  for (size_t i = begin; i < end; i += 8) {
    const __m256 v = _mm256_load_ps(from + i);
    if constexpr (kStream) {
      _mm256_stream_ps(to + i, v);
    } else {
      _mm256_store_ps(to + i, v);
    }
  }
  _mm_sfence();
}

template <bool kStream>
[[gnu::target("avx512f")]] void Copy512(const float* from, float* to, size_t begin, size_t end) {
  for (size_t i = begin; i < end; i += 16) {
    const __m512 v = _mm512_load_ps(from + i);
    if constexpr (kStream) {
      _mm512_stream_ps(to + i, v);
    } else {
      _mm512_store_ps(to + i, v);
    }
  }
  _mm_sfence();
}

template <bool kStream>
[[gnu::target("avx2,fma")]] void Triad256(const float* a, const float* b, float* to, size_t begin, size_t end) {
  const __m256 factor = _mm256_set1_ps(1.5F);
  for (size_t i = begin; i < end; i += 8) {
    const __m256 v = _mm256_fmadd_ps(_mm256_load_ps(b + i), factor, _mm256_load_ps(a + i));
    if constexpr (kStream) {
      _mm256_stream_ps(to + i, v);
    } else {
      _mm256_store_ps(to + i, v);
    }
  }
  _mm_sfence();
}

template <bool kStream>
[[gnu::target("avx512f")]] void Triad512(const float* a, const float* b, float* to, size_t begin, size_t end) {
  const __m512 factor = _mm512_set1_ps(1.5F);
  for (size_t i = begin; i < end; i += 16) {
    const __m512 v = _mm512_fmadd_ps(_mm512_load_ps(b + i), factor, _mm512_load_ps(a + i));
    if constexpr (kStream) {
      _mm512_stream_ps(to + i, v);
    } else {
      _mm512_store_ps(to + i, v);
    }
  }
  _mm_sfence();
}

template <void (*kCopy)(const float*, float*, size_t, size_t)>
void CopyOn(int threads, const float* from, float* to, size_t count) {
  Split(threads, count, [&](size_t begin, size_t end) { kCopy(from, to, begin, end); });
}
template <void (*kTriad)(const float*, const float*, float*, size_t, size_t)>
void TriadOn(int threads, const float* a, const float* b, float* to, size_t count) {
  Split(threads, count, [&](size_t begin, size_t end) { kTriad(a, b, to, begin, end); });
}

}  // namespace

std::vector<MemoryLimit> MemoryLimits() {
  std::vector<MemoryLimit> limits;
  if (__builtin_cpu_supports("avx512f")) {
    limits.push_back({"512-bit", &CopyOn<&Copy512<false>>, &TriadOn<&Triad512<false>>});
    limits.push_back({"512-bit streaming", &CopyOn<&Copy512<true>>, &TriadOn<&Triad512<true>>});
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    limits.push_back({"256-bit", &CopyOn<&Copy256<false>>, &TriadOn<&Triad256<false>>});
    limits.push_back({"256-bit streaming", &CopyOn<&Copy256<true>>, &TriadOn<&Triad256<true>>});
  }
  return limits;
}

float* AllocateTouched(size_t count) {
  constexpr size_t kHugePage = 2 << 20;
  const size_t bytes = (count * sizeof(float) + kHugePage - 1) / kHugePage * kHugePage;
  void* data = std::aligned_alloc(kHugePage, bytes);
  if (data == nullptr) std::abort();
  madvise(data, bytes, MADV_HUGEPAGE);
  std::memset(data, 0, bytes);
  return static_cast<float*>(data);
}

}  // namespace normd::benchmarks
