#ifndef NORMD_SERVER_SHM_SECRET_H_
#define NORMD_SERVER_SHM_SECRET_H_

#include <string>

#include "absl/strings/string_view.h"

namespace normd::shm {

// Bytes of a secret, as text.
inline constexpr int kSecretBytes = 32;

// 128 bits from the kernel's random number generator as 32 lower-case hex digits. Unlike base::NewUid, whose generator
// is made for statistics, nobody can guess it from others. Thread-safe.
std::string NewSecret();

// a == b, in a time that says nothing about where they differ.
bool SameSecret(absl::string_view a, absl::string_view b);

}  // namespace normd::shm

#endif  // NORMD_SERVER_SHM_SECRET_H_
