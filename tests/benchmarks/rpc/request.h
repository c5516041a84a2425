#ifndef NORMD_TESTS_BENCHMARKS_RPC_REQUEST_H_
#define NORMD_TESTS_BENCHMARKS_RPC_REQUEST_H_

#include <grpcpp/support/byte_buffer.h>

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace normd::benchmarks {

// A request, serialized once for all calls.
struct Request {
  // "/normd.v1.NormalizationService/Infer"
  std::string method;
  std::string bytes;
  // Of the tensor inside: an answer is never shorter.
  std::size_t payload_bytes = 0;
  // The layer that normd must have; empty for the other servers.
  std::string layer;
  // Whether an answer is right; INTERNAL says what is wrong.
  std::function<absl::Status(const grpc::ByteBuffer& answer)> check;
};

// `call` is one of CallNames(). INVALID_ARGUMENT: it is not.
absl::StatusOr<Request> MakeRequest(const std::string& call, const std::vector<int64_t>& shape);

}  // namespace normd::benchmarks

#endif  // NORMD_TESTS_BENCHMARKS_RPC_REQUEST_H_
