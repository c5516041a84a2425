#ifndef NORMD_SERVER_REGISTRY_FINGERPRINT_H_
#define NORMD_SERVER_REGISTRY_FINGERPRINT_H_

#include <concepts>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "absl/hash/hash.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace normd::registry {

// Sums up what a call asks for in 64 bits, so that a request_id that comes back with other content is noticed. Means
// something within this process only. Lists are told apart by their lengths.
class Fingerprint {
 public:
  // `method` keeps equal contents of different calls apart.
  explicit Fingerprint(absl::string_view method) { AddBytes(method); }

  template <typename T>
  requires std::integral<T> || std::is_enum_v<T> Fingerprint& Add(T value) {
    value_ = absl::HashOf(value_, static_cast<int64_t>(value));
    return *this;
  }
  // By its bits: NaN equals itself.
  Fingerprint& Add(double value) {
    int64_t bits = 0;
    std::memcpy(&bits, &value, sizeof(bits));
    return Add(bits);
  }
  Fingerprint& AddBytes(absl::string_view bytes) {
    value_ = absl::HashOf(value_, bytes);
    return *this;
  }
  template <typename T>
  Fingerprint& AddList(absl::Span<const T> values) {
    return AddBytes(absl::string_view(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)));
  }

  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0;
};

}  // namespace normd::registry

#endif  // NORMD_SERVER_REGISTRY_FINGERPRINT_H_
