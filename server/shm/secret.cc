#include "server/shm/secret.h"

#include <sys/random.h>

#include <cerrno>
#include <cstddef>
#include <cstdlib>

#include "absl/strings/escaping.h"

namespace normd::shm {

std::string NewSecret() {
  char bytes[kSecretBytes / 2];
  // Up to 256 bytes come whole, once the generator has been seeded at boot.
  while (getrandom(bytes, sizeof(bytes), 0) != static_cast<ssize_t>(sizeof(bytes))) {
    if (errno != EINTR) std::abort();
  }
  return absl::BytesToHexString(absl::string_view(bytes, sizeof(bytes)));
}

bool SameSecret(absl::string_view a, absl::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
  }
  return difference == 0;
}

}  // namespace normd::shm
