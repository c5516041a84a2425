#ifndef NORMD_CLIENT_CLI_TOP_JSON_H_
#define NORMD_CLIENT_CLI_TOP_JSON_H_

#include "absl/strings/string_view.h"
#include "client/cli/state_json.h"
#include "normd/admin.h"

namespace normd::cli {

// The statistics of `now` under the wire's names, and what they say of the time since `before` under "rates".
Json TopJson(absl::string_view server, const ServerStatistics& before, const ServerStatistics& now);

}  // namespace normd::cli

#endif  // NORMD_CLIENT_CLI_TOP_JSON_H_
