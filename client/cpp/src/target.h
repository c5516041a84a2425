#ifndef NORMD_CLIENT_CPP_SRC_TARGET_H_
#define NORMD_CLIENT_CPP_SRC_TARGET_H_

#include "absl/strings/string_view.h"

namespace normd::internal {

// What a target says about the way to the server, as gRPC reads targets. What may name anything else is neither.
bool IsUnixSocket(absl::string_view target);
// One address of 127.0.0.0/8, ::1, or the name localhost.
bool IsLoopback(absl::string_view target);

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_TARGET_H_
