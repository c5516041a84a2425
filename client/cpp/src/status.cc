#include "client/cpp/src/status.h"

#include <algorithm>

#include "absl/strings/cord.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "normd/v1/error_details.pb.h"

namespace normd::internal {
namespace {

std::string Text(const grpc::Status& status, const CallFacts& facts) {
  const std::string repeat =
      facts.request_id.empty() ? "" : absl::StrCat(" (repeat with request_id '", facts.request_id, "')");
  if (status.error_code() == grpc::StatusCode::UNAVAILABLE) {
    return absl::StrCat("normd server at '", facts.target, "' is unavailable, ", facts.attempts,
                        facts.attempts == 1 ? " attempt: " : " attempts: ", status.error_message(), repeat);
  }
  if (status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED) {
    return absl::StrCat("no answer from the normd server at '", facts.target, "' within ",
                        absl::FormatDuration(facts.timeout), ": ", status.error_message(), repeat);
  }
  return status.error_message();
}

}  // namespace

absl::Status ToAbslStatus(const grpc::Status& status, const CallFacts& facts) {
  if (status.ok()) return absl::OkStatus();
  // Both follow google.rpc.Code.
  absl::Status result(static_cast<absl::StatusCode>(status.error_code()), Text(status, facts));
  if (!status.error_details().empty()) {
    result.SetPayload("type.googleapis.com/google.rpc.Status", absl::Cord(status.error_details()));
  }
  return result;
}

std::optional<absl::Duration> RetryDelay(const grpc::Status& status) {
  if (status.error_code() != grpc::StatusCode::RESOURCE_EXHAUSTED) return std::nullopt;
  v1::ErrorStatus details;
  if (!details.ParseFromString(status.error_details())) return std::nullopt;
  for (const google::protobuf::Any& detail : details.details()) {
    v1::RetryInfo info;
    // The name of the type stands behind the last slash.
    if (!absl::EndsWith(detail.type_url(), "/google.rpc.RetryInfo") || !info.ParseFromString(detail.value())) continue;
    const google::protobuf::Duration& delay = info.retry_delay();
    return std::max(absl::Seconds(delay.seconds()) + absl::Nanoseconds(delay.nanos()), absl::ZeroDuration());
  }
  return std::nullopt;
}

}  // namespace normd::internal
