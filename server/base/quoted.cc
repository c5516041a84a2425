#include "server/base/quoted.h"

#include <cstddef>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace normd::base {

std::string Quoted(absl::string_view text) {
  constexpr std::size_t kMostBytes = 64;
  return absl::StrCat("'", absl::CHexEscape(text.substr(0, kMostBytes)), text.size() > kMostBytes ? "...'" : "'");
}

}  // namespace normd::base
