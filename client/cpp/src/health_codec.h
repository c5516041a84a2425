#ifndef NORMD_CLIENT_CPP_SRC_HEALTH_CODEC_H_
#define NORMD_CLIENT_CPP_SRC_HEALTH_CODEC_H_

#include <optional>

#include "absl/strings/string_view.h"
#include "grpcpp/support/byte_buffer.h"

// The two messages of grpc.health.v1.Health/Check, by hand. Generated code would register health.proto in protobuf's
// process-wide table of files, and a program that brings its own copy beside this library would abort at its start.
namespace normd::internal {

// HealthCheckRequest{service}.
grpc::ByteBuffer EncodeHealthRequest(absl::string_view service);

// HealthCheckResponse.status: 0 UNKNOWN, 1 SERVING, 2 NOT_SERVING, 3 SERVICE_UNKNOWN. Nothing: not such a message.
std::optional<int> DecodeHealthResponse(const grpc::ByteBuffer& message);

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_HEALTH_CODEC_H_
