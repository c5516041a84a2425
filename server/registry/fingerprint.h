#ifndef NORMD_SERVER_REGISTRY_FINGERPRINT_H_
#define NORMD_SERVER_REGISTRY_FINGERPRINT_H_

#include <array>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "server/base/sha256.h"

namespace normd::registry {

// Sums up what a call asks for in 64 bits, so that a request_id that comes back with other content is noticed, in this
// process or in a later one: the store keeps them. Lists are told apart by their lengths. One at a time in a thread.
class Fingerprint {
 public:
  // `method` keeps equal contents of different calls apart.
  explicit Fingerprint(absl::string_view method) { AddBytes(method); }

  template <typename T>
  requires std::integral<T> || std::is_enum_v<T> Fingerprint& Add(T value) {
    hash_.AddValue(static_cast<int64_t>(value));
    return *this;
  }
  // By its bits: NaN equals itself.
  Fingerprint& Add(double value) {
    hash_.AddValue(value);
    return *this;
  }
  Fingerprint& AddBytes(absl::string_view bytes) {
    hash_.AddValue(static_cast<int64_t>(bytes.size()));
    hash_.Add(bytes.data(), bytes.size());
    return *this;
  }
  template <typename T>
  Fingerprint& AddList(absl::Span<const T> values) {
    return AddBytes(absl::string_view(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)));
  }

  // Last.
  uint64_t value() {
    const std::array<char, 32> digest = hash_.Digest();
    uint64_t value = 0;
    std::memcpy(&value, digest.data(), sizeof(value));
    return value;
  }

 private:
  base::Sha256 hash_;
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_FINGERPRINT_H_
