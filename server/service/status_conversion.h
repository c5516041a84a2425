#ifndef NORMD_SERVER_SERVICE_STATUS_CONVERSION_H_
#define NORMD_SERVER_SERVICE_STATUS_CONVERSION_H_

#include <google/protobuf/duration.pb.h>
#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace normd::service {

google::protobuf::Duration ToProtoDuration(absl::Duration duration);

// RESOURCE_EXHAUSTED with a google.rpc.RetryInfo: nothing is wrong with the call, and after `delay` it may succeed.
absl::Status RetryLaterError(absl::string_view message, absl::Duration delay);

// The delay of a RetryLaterError; otherwise zero.
absl::Duration RetryDelayOf(const absl::Status& status);

// The same code, message and details.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_STATUS_CONVERSION_H_
