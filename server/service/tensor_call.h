#ifndef NORMD_SERVER_SERVICE_TENSOR_CALL_H_
#define NORMD_SERVER_SERVICE_TENSOR_CALL_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "normd/v1/normalization_service.pb.h"
#include "proto/wire/message_slices.h"
#include "proto/wire/message_writer.h"
#include "proto/wire/split_message.h"
#include "server/access/role.h"
#include "server/registry/call_control.h"
#include "server/registry/committer.h"
#include "server/registry/layer_registry.h"
#include "server/service/tensor_buffers.h"

namespace normd::service {

// Whether whoever calls has the role that the call takes for its layer: asked once it is known, before anything of the
// layer is looked up.
using Authorize = absl::FunctionRef<absl::Status(access::Role)>;

// A request as it was received and decoded but for its tensors.
struct ReceivedMessage {
  wire::MessageSlices slices;
  wire::Payload payloads[wire::kMaxPayloads];
};

// What tensor calls need of the server. All outlive the calls.
struct TensorCallContext {
  const registry::LayerRegistry* registry;
  TensorMemory memory;
};

// One TrainStep, Infer, Denormalize or Backward, from its decoded request to its encoded answer, whatever it came in
// on: an RPC of its own or a stream. Holds its tensors. Legal order: Admit, Run if that was OK, and WriteResult (or
// what else reads the result) if that was. Not thread-safe.
class TensorCall {
 public:
  virtual ~TensorCall() = default;

  // The layer that the request names, not validated. Lives as long as this.
  virtual absl::string_view layer() const = 0;
  // That of the request, the same way; empty if it has none.
  virtual absl::string_view request_id() const { return ""; }
  // Bytes of tensors that are read and written.
  virtual int64_t bytes() const = 0;
  // Reserves the memory that Run takes. Quick. RESOURCE_EXHAUSTED with a hint when to come back: there is none.
  absl::Status Admit();
  // Carries the call out. DATA_LOSS: a region that it uses was cut short. Nothing has changed, unless that was noticed
  // only after the commit and the call wants results that may be wrong.
  absl::Status Run(const registry::CallControl& control);
  // The same once more, after a Run whose change another server has forestalled.
  absl::Status RunAgain(const registry::CallControl& control);
  // What has to be stored before the result may be sent, after Run; null: nothing.
  const registry::PendingCommitPtr& stored() const { return stored_; }
  // The method's response but for its tensor, after Run.
  virtual const google::protobuf::MessageLite& response() const = 0;
  // The tensor, or nothing if none is wanted. Once.
  virtual std::optional<TensorOutput> TakeOutput() = 0;
  // Writes the fields of the method's response, with the tensor. Once.
  void WriteResult(wire::MessageWriter* writer);

 protected:
  TensorCall(const TensorCallContext& context, ReceivedMessage message)
      : context_(context), message_(std::move(message)) {}

  const registry::LayerRegistry& registry() const { return *context_.registry; }
  const wire::Payload& payload(std::size_t i) const { return message_.payloads[i]; }
  // How a tensor of the request is loaded: the payload's number, and the threads that gather it.
  TensorSource Source(std::size_t payload, int threads) {
    return {context_.memory, layer(), message_.slices, message_.payloads[payload], &reserved_, threads};
  }

  // Bytes of the buffers that Load allocates.
  virtual int64_t BufferBytes() const = 0;
  // Gathers the inputs and makes room for the results.
  virtual absl::Status Load(int threads) = 0;
  virtual absl::Status Compute(const registry::CallControl& control) = 0;
  // For Compute.
  void set_stored(registry::PendingCommitPtr stored) { stored_ = std::move(stored); }
  // Of all tensors in shared memory. Before the commit.
  virtual absl::Status CheckNotLost() const = 0;
  // Of those that the results depend on or stand in. After Compute.
  virtual absl::Status CheckResultNotLost() const { return CheckNotLost(); }

 private:
  absl::Status ComputeGuarded(const registry::CallControl& control);

  const TensorCallContext& context_;
  ReceivedMessage message_;
  // For the message, until the tensors were gathered from it, and for the buffers.
  wire::BufferPool::Reservation reserved_;
  registry::PendingCommitPtr stored_;
};

// `request` is as SplitMessage left it.
std::unique_ptr<TensorCall> NewTensorCall(const TensorCallContext& context, v1::TrainStepRequest request,
                                          ReceivedMessage message);
std::unique_ptr<TensorCall> NewTensorCall(const TensorCallContext& context, v1::InferRequest request,
                                          ReceivedMessage message);
std::unique_ptr<TensorCall> NewTensorCall(const TensorCallContext& context, v1::DenormalizeRequest request,
                                          ReceivedMessage message);
std::unique_ptr<TensorCall> NewTensorCall(const TensorCallContext& context, v1::BackwardRequest request,
                                          ReceivedMessage message);

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_TENSOR_CALL_H_
