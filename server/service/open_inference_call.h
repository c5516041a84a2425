#ifndef NORMD_SERVER_SERVICE_OPEN_INFERENCE_CALL_H_
#define NORMD_SERVER_SERVICE_OPEN_INFERENCE_CALL_H_

#include <google/protobuf/arena.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "inference/open_inference_service.pb.h"
#include "proto/wire/message_slices.h"
#include "proto/wire/message_writer.h"
#include "server/service/open_inference_regions.h"
#include "server/service/tensor_call.h"

namespace normd::service {

// The version of a layer that a request names: a decimal number, or nothing for the newest. INVALID_ARGUMENT: it is
// none. NOT_FOUND: no such layer, or the version is not kept.
absl::StatusOr<registry::LayerRegistry::SnapshotPtr> FindModelVersion(const registry::LayerRegistry& registry,
                                                                      absl::string_view model_name,
                                                                      absl::string_view version);

// A ModelInfer request (proto/inference) as a call of ours, Infer or TrainStep, and the answer to it. Not thread-safe.
class OpenInferenceCall {
 public:
  // Both outlive this.
  OpenInferenceCall(const TensorCallContext& context, const OpenInferenceRegions& regions)
      : context_(context), regions_(regions) {}

  // Reads the request from `message`. INVALID_ARGUMENT, as open_inference_service.proto says; NOT_FOUND: no such
  // region; what `authorize` says.
  absl::Status Decode(wire::MessageSlices message, Authorize authorize);

  // As far as they are known, also after a failed Decode.
  absl::string_view layer() const { return request_.model_name(); }
  absl::string_view request_id() const { return request_id_; }
  const std::string& id() const { return request_.id(); }

  // REQUIRES: Decode was OK.
  TensorCall& call() { return *call_; }

  // Writes a ModelInferResponse. After the call has run; once.
  void WriteResponse(wire::MessageWriter* writer);

 private:
  absl::Status ReadParameters();
  absl::Status ReadOutputs();
  // Of the one input.
  absl::Status ReadInput(ReceivedMessage* message, v1::Tensor* x);
  // Elements that came in the message's typed fields.
  absl::Status TakeTypedElements(int64_t want_bytes, ReceivedMessage* message) const;
  // The range that parameters of a tensor say, of `bytes`; none: nullptr.
  absl::Status ReadRange(absl::string_view what,
                         const google::protobuf::Map<std::string, ::inference::InferParameter>& parameters,
                         int64_t bytes, std::unique_ptr<v1::SharedMemoryRange>* range) const;

  const TensorCallContext& context_;
  const OpenInferenceRegions& regions_;
  // Of the request and of the response, which are messages in messages: a small call allocates little besides.
  alignas(8) std::array<char, 2048> first_block_;
  google::protobuf::Arena arena_{first_block_.data(), first_block_.size()};
  ::inference::ModelInferRequest& request_ =
      *google::protobuf::Arena::CreateMessage<::inference::ModelInferRequest>(&arena_);
  bool training_ = false;
  std::string request_id_;
  v1::Layout layout_ = v1::LAYOUT_CHANNELS_FIRST;
  bool wants_y_ = false;
  std::unique_ptr<TensorCall> call_;
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_OPEN_INFERENCE_CALL_H_
