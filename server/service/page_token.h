#ifndef NORMD_SERVER_SERVICE_PAGE_TOKEN_H_
#define NORMD_SERVER_SERVICE_PAGE_TOKEN_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace normd::service {

// Page tokens are opaque to clients: the name after which the list goes on, in web-safe base64. An empty name (nothing
// follows) is the empty token.
std::string EncodePageToken(absl::string_view last_name);

// INVALID_ARGUMENT: not a token that a list with this prefix gave out. The empty token is the empty name.
absl::StatusOr<std::string> DecodePageToken(absl::string_view token, absl::string_view prefix);

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_PAGE_TOKEN_H_
