#ifndef NORMD_SERVER_BASE_SHA256_H_
#define NORMD_SERVER_BASE_SHA256_H_

#include <array>
#include <cstddef>

#include "absl/types/span.h"

namespace normd::base {

// SHA-256 of bytes that come in pieces. One at a time in a thread: the state, which costs more to make than a small
// input to hash, is the thread's own.
class Sha256 {
 public:
  Sha256();
  Sha256(const Sha256&) = delete;
  Sha256& operator=(const Sha256&) = delete;

  void Add(const void* data, std::size_t bytes);
  // The bytes of the value as they lie in memory.
  template <typename T>
  void AddValue(T value) {
    Add(&value, sizeof(value));
  }
  void AddArray(absl::Span<const double> values) { Add(values.data(), values.size() * sizeof(double)); }

  // Once.
  std::array<char, 32> Digest();
};

}  // namespace normd::base

#endif  // NORMD_SERVER_BASE_SHA256_H_
