#ifndef NORMD_CLIENT_CPP_SRC_TENSOR_CALL_H_
#define NORMD_CLIENT_CPP_SRC_TENSOR_CALL_H_

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "client/cpp/src/runtime.h"
#include "client/cpp/src/shared_memory.h"
#include "client/cpp/src/stub.h"
#include "normd/client.h"
#include "normd/tensor.h"
#include "normd/v1/normalization_service.pb.h"
#include "proto/wire/buffer_pool.h"
#include "proto/wire/message_slices.h"
#include "proto/wire/message_writer.h"
#include "proto/wire/split_message.h"

namespace normd::internal {

// A call with tensors between the API and the wire: what it says, where its tensors stand and where the result goes.
struct TensorCall {
  struct Input {
    // Of the tensor in the request.
    std::uint32_t field = 0;
    TensorView tensor;
    // Where it stands in shared memory, if it does.
    std::optional<SharedMemory::Place> place = {};
  };

  TensorMethod method = TensorMethod::kInfer;
  std::string layer = {};
  // The request without its tensors.
  std::shared_ptr<const google::protobuf::MessageLite> fields = nullptr;
  std::vector<Input> inputs = {};
  // Bytes of the result; 0: none is wanted.
  std::size_t output_bytes = 0;
  // Where they go; empty: into a Tensor.
  absl::Span<char> into = {};
  // The request's field that says where in shared memory they go, and the place, if there is one.
  std::uint32_t output_field = 0;
  std::optional<SharedMemory::Place> output = {};
  // Empty when the call has none.
  std::string request_id = {};
};

// The calls as the API's arguments describe them; the tensors are still the caller's. A mutation gets a request_id from
// `runtime` if it has none, once, so that every attempt carries the same one. INVALID_ARGUMENT: a tensor that does not
// fit itself, an `into` of another size than the result. RESOURCE_EXHAUSTED: more than one message can carry.
absl::StatusOr<TensorCall> TrainStepCall(absl::string_view layer, const TensorView& x, const TrainStepOptions& options,
                                         Runtime* runtime);
absl::StatusOr<TensorCall> InferCall(absl::string_view layer, const TensorView& x, const InferOptions& options);
absl::StatusOr<TensorCall> DenormalizeCall(absl::string_view layer, const TensorView& y, const InferOptions& options);
absl::StatusOr<TensorCall> BackwardCall(absl::string_view layer, const TensorView& x, const TensorView& dy,
                                        const BackwardOptions& options, Runtime* runtime);

// Sets the fields of a TrainStep other than x, and returns its request_id, made if there was none.
std::string TrainStepFields(absl::string_view layer, const TrainStepOptions& options, Runtime* runtime,
                            v1::TrainStepRequest* request);

// A slice of memory that `owner` keeps alive: gRPC drops its share when it has sent it, on a thread of its own.
grpc::Slice Share(absl::Span<const char> data, std::shared_ptr<const void> owner);

// Makes the call independent of the caller's memory: copies the tensors that have no owner, once. gRPC may hold what it
// was given to send for some time after a call has timed out. RESOURCE_EXHAUSTED: `pool` has no room.
absl::Status OwnInputs(TensorCall* call, wire::BufferPool* pool);

// The request, in which the tensors stand as slices that share their owners, or as their places in shared memory.
// REQUIRES: OwnInputs was OK. Can be
// repeated.
wire::MessageWriter Encode(const TensorCall& call);

// The same as one call on a stream of Steps.
grpc::ByteBuffer EncodeStep(const TensorCall& call, int64_t id);

// What the answer says; its elements are copied once, to `call.into` or to memory of `pool` (or of the system, when the
// pool has no room: an answer that came is not lost). Result is what `call.method` returns. INTERNAL: the answer does
// not fit itself or the call; nothing was written then.
template <typename Result>
absl::StatusOr<Result> Decode(const TensorCall& call, const grpc::ByteBuffer& answer, wire::BufferPool* pool);
template <>
absl::StatusOr<TrainStepResult> Decode(const TensorCall& call, const grpc::ByteBuffer& answer, wire::BufferPool* pool);
template <>
absl::StatusOr<InferResult> Decode(const TensorCall& call, const grpc::ByteBuffer& answer, wire::BufferPool* pool);
template <>
absl::StatusOr<BackwardResult> Decode(const TensorCall& call, const grpc::ByteBuffer& answer, wire::BufferPool* pool);

// An answer on a stream of Steps, and where in the message its elements are.
struct StepAnswer {
  wire::MessageSlices message;
  v1::StepsResponse response;
  wire::Payload payload;
};
// INTERNAL: it cannot be read.
absl::Status ReadStep(const grpc::ByteBuffer& message, StepAnswer* answer);
// The result in it, as Decode gives it; its status has been seen to be OK.
template <typename Result>
absl::StatusOr<Result> DecodeStep(const TensorCall& call, StepAnswer* answer, wire::BufferPool* pool);
template <>
absl::StatusOr<TrainStepResult> DecodeStep(const TensorCall& call, StepAnswer* answer, wire::BufferPool* pool);
template <>
absl::StatusOr<InferResult> DecodeStep(const TensorCall& call, StepAnswer* answer, wire::BufferPool* pool);
template <>
absl::StatusOr<BackwardResult> DecodeStep(const TensorCall& call, StepAnswer* answer, wire::BufferPool* pool);

}  // namespace normd::internal

#endif  // NORMD_CLIENT_CPP_SRC_TENSOR_CALL_H_
