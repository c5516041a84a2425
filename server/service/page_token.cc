#include "server/service/page_token.h"

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "server/layer/layer_name.h"

namespace normd::service {

std::string EncodePageToken(absl::string_view last_name) { return absl::WebSafeBase64Escape(last_name); }

absl::StatusOr<std::string> DecodePageToken(absl::string_view token, absl::string_view prefix) {
  if (token.empty()) return std::string();
  std::string name;
  if (!absl::WebSafeBase64Unescape(token, &name) || !layer::ValidateName(name).ok() ||
      !absl::StartsWith(name, prefix)) {
    return absl::InvalidArgumentError("page_token is not a next_page_token of a list with this prefix");
  }
  return name;
}

}  // namespace normd::service
