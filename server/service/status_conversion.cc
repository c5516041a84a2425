#include "server/service/status_conversion.h"

#include <string>

#include "absl/strings/cord.h"
#include "absl/types/optional.h"
#include "normd/v1/error_details.pb.h"

namespace normd::service {
namespace {

// Both libraries took the codes and their numbers from google/rpc/code.proto.
static_assert(static_cast<int>(absl::StatusCode::kCancelled) == grpc::StatusCode::CANCELLED);
static_assert(static_cast<int>(absl::StatusCode::kInvalidArgument) == grpc::StatusCode::INVALID_ARGUMENT);
static_assert(static_cast<int>(absl::StatusCode::kUnauthenticated) == grpc::StatusCode::UNAUTHENTICATED);

constexpr absl::string_view kRetryInfoType = "type.googleapis.com/google.rpc.RetryInfo";

}  // namespace

google::protobuf::Duration ToProtoDuration(absl::Duration duration) {
  google::protobuf::Duration out;
  out.set_seconds(absl::IDivDuration(duration, absl::Seconds(1), &duration));
  out.set_nanos(static_cast<int>(absl::ToInt64Nanoseconds(duration)));
  return out;
}

absl::Status RetryLaterError(absl::string_view message, absl::Duration delay) {
  v1::RetryInfo info;
  *info.mutable_retry_delay() = ToProtoDuration(delay);
  absl::Status status = absl::ResourceExhaustedError(message);
  status.SetPayload(kRetryInfoType, absl::Cord(info.SerializeAsString()));
  return status;
}

absl::Duration RetryDelayOf(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload(kRetryInfoType);
  v1::RetryInfo info;
  if (!payload.has_value() || !info.ParseFromString(std::string(*payload))) return absl::ZeroDuration();
  return absl::Seconds(info.retry_delay().seconds()) + absl::Nanoseconds(info.retry_delay().nanos());
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  if (status.ok()) return grpc::Status::OK;
  const auto code = static_cast<grpc::StatusCode>(status.code());
  const std::string message(status.message());
  v1::ErrorStatus details;
  status.ForEachPayload([&details](absl::string_view type, const absl::Cord& value) {
    google::protobuf::Any* any = details.add_details();
    any->set_type_url(std::string(type));
    any->set_value(std::string(value));
  });
  if (details.details().empty()) return {code, message};
  details.set_code(code);
  details.set_message(message);
  return {code, message, details.SerializeAsString()};
}

}  // namespace normd::service
