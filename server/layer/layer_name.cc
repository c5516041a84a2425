#include "server/layer/layer_name.h"

#include <algorithm>
#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "server/base/quoted.h"

namespace normd::layer {
namespace {

absl::Status BadName(absl::string_view name, absl::string_view reason) {
  return absl::InvalidArgumentError(
      absl::StrCat("layer name ", base::Quoted(name), " ", reason,
                   "; want segments of letters, digits, '_' and '-' joined by single dots, at most ", kMaxNameBytes,
                   " bytes, as in 'resnet50.layer1.0.bn1'"));
}

bool IsNameChar(char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '-'; }

}  // namespace

absl::Status ValidateName(absl::string_view name) {
  if (name.empty()) return BadName(name, "is empty");
  if (name.size() > kMaxNameBytes) return BadName(name, absl::StrCat("has ", name.size(), " bytes"));
  char previous = '.';
  for (const char c : name) {
    if (c == '.') {
      if (previous == '.') return BadName(name, "has an empty segment");
    } else if (!IsNameChar(c)) {
      return BadName(name, absl::StrCat("contains ", base::Quoted(absl::string_view(&c, 1))));
    }
    previous = c;
  }
  if (previous == '.') return BadName(name, "has an empty segment");
  return absl::OkStatus();
}

absl::Status ValidateRequestId(absl::string_view request_id) {
  if (request_id.size() <= kMaxRequestIdBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("request_id ", base::Quoted(request_id), " has ", request_id.size(),
                                                 " bytes, want at most ", kMaxRequestIdBytes));
}

}  // namespace normd::layer
