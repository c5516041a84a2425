#ifndef NORMD_SERVER_APP_TRACE_CONTEXT_H_
#define NORMD_SERVER_APP_TRACE_CONTEXT_H_

#include <optional>

#include "absl/strings/string_view.h"

namespace normd::app {

// Which trace a call belongs to, and which span of it the caller was in: 32 and 16 lower-case hex digits.
struct TraceContext {
  absl::string_view trace_id;
  absl::string_view span_id;
};

// Reads the header traceparent of W3C's Trace Context, "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", of
// version 00 or a later one. Nothing if it is malformed, as the standard asks. The result points into `header`.
std::optional<TraceContext> ParseTraceparent(absl::string_view header);

}  // namespace normd::app

#endif  // NORMD_SERVER_APP_TRACE_CONTEXT_H_
