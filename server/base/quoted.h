#ifndef NORMD_SERVER_BASE_QUOTED_H_
#define NORMD_SERVER_BASE_QUOTED_H_

#include <string>

#include "absl/strings/string_view.h"

namespace normd::base {

// What anybody may have sent, fit for a message or a line of the log: 'text' with what is not printable ASCII escaped,
// and beyond 64 bytes 'the first 64...'.
std::string Quoted(absl::string_view text);

}  // namespace normd::base

#endif  // NORMD_SERVER_BASE_QUOTED_H_
