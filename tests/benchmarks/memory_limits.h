#ifndef NORMD_TESTS_BENCHMARKS_MEMORY_LIMITS_H_
#define NORMD_TESTS_BENCHMARKS_MEMORY_LIMITS_H_

#include <cstddef>
#include <string>
#include <vector>

// What memory allows: copy and triad in the ways that this machine can do them. A kernel that reads and writes the same
// arrays cannot be much faster than the best of them.
namespace normd::benchmarks {

// Arrays are aligned to 64 bytes and their length is a multiple of 64.
struct MemoryLimit {
  // "copy, 512-bit stores past the caches"
  std::string name;
  // to[i] = from[i]
  void (*copy)(int threads, const float* from, float* to, size_t count);
  // to[i] = a[i] + 1.5 * b[i]
  void (*triad)(int threads, const float* a, const float* b, float* to, size_t count);
};

// Those that this machine can run: plain and streaming stores at 256 bits and, where it has them, 512 bits.
std::vector<MemoryLimit> MemoryLimits();

// `count` floats on huge pages where the system has them, already touched; never freed.
float* AllocateTouched(size_t count);

}  // namespace normd::benchmarks

#endif  // NORMD_TESTS_BENCHMARKS_MEMORY_LIMITS_H_
