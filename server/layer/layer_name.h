#ifndef NORMD_SERVER_LAYER_LAYER_NAME_H_
#define NORMD_SERVER_LAYER_LAYER_NAME_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace normd::layer {

inline constexpr int kMaxNameBytes = 256;
inline constexpr int kMaxRequestIdBytes = 128;

// A name is segments of [A-Za-z0-9_-]+ joined by single dots, at most kMaxNameBytes long. INVALID_ARGUMENT otherwise,
// quoting the name (escaped, shortened) and the rule.
absl::Status ValidateName(absl::string_view name);

// A request_id is at most kMaxRequestIdBytes long; empty means none. INVALID_ARGUMENT otherwise.
absl::Status ValidateRequestId(absl::string_view request_id);

}  // namespace normd::layer

#endif  // NORMD_SERVER_LAYER_LAYER_NAME_H_
