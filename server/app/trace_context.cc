#include "server/app/trace_context.h"

#include <algorithm>
#include <cstddef>

namespace normd::app {
namespace {

// version-trace_id-span_id-flags; what later versions add follows.
constexpr std::size_t kTraceId = 3;
constexpr std::size_t kTraceIdLength = 32;
constexpr std::size_t kSpanId = kTraceId + kTraceIdLength + 1;
constexpr std::size_t kSpanIdLength = 16;
constexpr std::size_t kFlags = kSpanId + kSpanIdLength + 1;
constexpr std::size_t kLength = kFlags + 2;

bool IsHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsZero(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c == '0'; });
}

}  // namespace

std::optional<TraceContext> ParseTraceparent(absl::string_view header) {
  if (header.size() < kLength) return std::nullopt;
  const absl::string_view version = header.substr(0, 2);
  if (!IsHex(version) || version == "ff") return std::nullopt;
  if (header.size() > kLength && (version == "00" || header[kLength] != '-')) return std::nullopt;
  for (const std::size_t dash : {kTraceId - 1, kSpanId - 1, kFlags - 1}) {
    if (header[dash] != '-') return std::nullopt;
  }
  const TraceContext context = {header.substr(kTraceId, kTraceIdLength), header.substr(kSpanId, kSpanIdLength)};
  if (!IsHex(context.trace_id) || !IsHex(context.span_id) || !IsHex(header.substr(kFlags, 2))) return std::nullopt;
  if (IsZero(context.trace_id) || IsZero(context.span_id)) return std::nullopt;
  return context;
}

}  // namespace normd::app
