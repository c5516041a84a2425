#ifndef NORMD_CLIENT_CLI_HINTS_H_
#define NORMD_CLIENT_CLI_HINTS_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/cli/context.h"

namespace normd::cli {

// Up to three of `names` that a user may have meant by `wanted`, the nearest first: few edits away, or with it inside.
std::vector<std::string> NearNames(absl::string_view wanted, const std::vector<std::string>& names);

// What to do about a failed call, as one or more lines; may be empty. May ask the server for the names of its layers.
std::string HintFor(const absl::Status& status, Context* context);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_HINTS_H_
