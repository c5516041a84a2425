#ifndef NORMD_SERVER_SERVICE_STATUS_CONVERSION_H_
#define NORMD_SERVER_SERVICE_STATUS_CONVERSION_H_

#include <grpcpp/support/status.h>

#include "absl/status/status.h"

namespace normd::service {

// The same code and message.
grpc::Status ToGrpcStatus(const absl::Status& status);

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_STATUS_CONVERSION_H_
