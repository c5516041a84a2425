#ifndef NORMD_VERSION_H_
#define NORMD_VERSION_H_

#include "absl/strings/string_view.h"

namespace normd {
// Of every public header: what was compiled with the headers of one minor version does not link with the library of
// another.
inline namespace abi_0_1 {

// Of this library, e.g. "0.1.0".
absl::string_view Version();

}  // namespace abi_0_1
}  // namespace normd

#endif  // NORMD_VERSION_H_
