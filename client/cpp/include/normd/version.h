#ifndef NORMD_VERSION_H_
#define NORMD_VERSION_H_

#include "absl/strings/string_view.h"

namespace normd {

// Of this library, e.g. "0.1.0".
absl::string_view Version();

}  // namespace normd

#endif  // NORMD_VERSION_H_
