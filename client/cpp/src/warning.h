#ifndef NORMD_CLIENT_CPP_SRC_WARNING_H_
#define NORMD_CLIENT_CPP_SRC_WARNING_H_

#include <cstdio>

#include "absl/strings/string_view.h"

namespace normd::internal {

// What on_warning does unless it is set.
inline void PrintWarning(absl::string_view text) {
  std::fprintf(stderr, "normd: %.*s\n", static_cast<int>(text.size()), text.data());
}

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_WARNING_H_
