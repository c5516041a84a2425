#ifndef NORMD_CLIENT_CPP_SRC_FILE_H_
#define NORMD_CLIENT_CPP_SRC_FILE_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace normd::internal {

// All of a small file; `whose` begins the message of a failure. FAILED_PRECONDITION: it cannot be read, is empty, or
// has more than a MiB.
absl::StatusOr<std::string> ReadFile(const std::string& path, absl::string_view whose);

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_FILE_H_
