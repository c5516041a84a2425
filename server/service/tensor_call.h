#ifndef NORMD_SERVER_SERVICE_TENSOR_CALL_H_
#define NORMD_SERVER_SERVICE_TENSOR_CALL_H_

#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "normd/v1/normalization_service.pb.h"
#include "proto/wire/message_slices.h"
#include "proto/wire/message_writer.h"
#include "proto/wire/split_message.h"
#include "server/registry/call_control.h"
#include "server/registry/layer_registry.h"
#include "server/service/tensor_buffers.h"

namespace normd::service {

// One TrainStep, Infer, Denormalize or Backward, from its decoded request to its encoded answer, whatever it came in
// on: an RPC of its own or a stream. Holds its tensors. Legal order: Run, then WriteResult if that was OK. Not
// thread-safe.
class TensorCall {
 public:
  virtual ~TensorCall() = default;

  // The layer that the request names, not validated. Lives as long as this.
  virtual absl::string_view layer() const = 0;
  // Bytes of tensors that are read and written.
  virtual int64_t bytes() const = 0;
  // Carries the call out. DATA_LOSS: a region that it uses was cut short; nothing has changed but for its results.
  absl::Status Run(const registry::CallControl& control);
  // Writes the fields of the method's response.
  virtual void WriteResult(wire::MessageWriter* writer) = 0;

 protected:
  virtual absl::Status Compute(const registry::CallControl& control) = 0;
  // Of all tensors in shared memory.
  virtual absl::Status CheckNotLost() const = 0;
};

// What tensor calls need of the server. All outlive the calls.
struct TensorCallContext {
  const registry::LayerRegistry* registry;
  TensorMemory memory;
};

// Takes the call and its tensors over; afterwards `slices` are not needed any more. `request` is as SplitMessage left
// it. INVALID_ARGUMENT: the tensor is missing or of an unknown kind. RESOURCE_EXHAUSTED with a hint when to come back:
// no memory.
using TensorCallPtr = absl::StatusOr<std::unique_ptr<TensorCall>>;
TensorCallPtr NewTensorCall(const TensorCallContext& context, v1::TrainStepRequest request,
                            const wire::MessageSlices& slices, absl::Span<const wire::Payload> payloads);
TensorCallPtr NewTensorCall(const TensorCallContext& context, v1::InferRequest request,
                            const wire::MessageSlices& slices, absl::Span<const wire::Payload> payloads);
TensorCallPtr NewTensorCall(const TensorCallContext& context, v1::DenormalizeRequest request,
                            const wire::MessageSlices& slices, absl::Span<const wire::Payload> payloads);
TensorCallPtr NewTensorCall(const TensorCallContext& context, v1::BackwardRequest request,
                            const wire::MessageSlices& slices, absl::Span<const wire::Payload> payloads);

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_TENSOR_CALL_H_
