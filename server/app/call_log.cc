#include "server/app/call_log.h"

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "server/app/trace_context.h"

namespace normd::app {
namespace {

// Of the call's metadata, which lives as long as `context`. Of several values none is believed.
std::optional<TraceContext> TraceOf(const grpc::CallbackServerContext& context) {
  const auto [first, end] = context.client_metadata().equal_range("traceparent");
  if (first == end || std::next(first) != end) return std::nullopt;
  return ParseTraceparent({first->second.data(), first->second.size()});
}

}  // namespace

void CallLog::OnCall(const service::CallRecord& record) {
  const absl::StatusCode code = record.status.code();
  const bool our_fault = code == absl::StatusCode::kInternal || code == absl::StatusCode::kUnknown;
  const bool slow = record.duration > slow_after_ && record.method != "WatchLayers";
  const LogLevel level = our_fault ? LogLevel::kError : slow ? LogLevel::kWarn : LogLevel::kDebug;
  if (!logger_->Enabled(level)) return;
  std::vector<LogField> fields = {{"method", record.method},
                                  {"layer", record.layer},
                                  {"code", absl::StatusCodeToString(code)},
                                  {"error", record.status.message()},
                                  {"duration_ms", absl::ToDoubleMilliseconds(record.duration)},
                                  {"request_bytes", record.request_bytes},
                                  {"response_bytes", record.response_bytes},
                                  {"peer", record.context.peer()}};
  if (std::string name = service::CallerOf(record.context, access_).name(); !name.empty()) {
    fields.emplace_back("identity", name);
  }
  if (!record.request_id.empty()) fields.emplace_back("request_id", record.request_id);
  if (const std::optional<TraceContext> trace = TraceOf(record.context)) {
    fields.emplace_back("trace_id", trace->trace_id);
    fields.emplace_back("span_id", trace->span_id);
  }
  logger_->LogAlways(level, slow && !our_fault ? "slow call" : "call", fields);
}

}  // namespace normd::app
