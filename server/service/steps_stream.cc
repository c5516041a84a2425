#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/service/call_stream.h"
#include "server/service/status_conversion.h"
#include "server/service/streams.h"

namespace normd::service {
namespace {

// A StepsRequest.
class Step final : public StreamedCall {
 public:
  explicit Step(const TensorCallContext& context) : context_(context) {}

  absl::Status Decode(wire::MessageSlices slices, Authorize authorize, absl::Status* unreadable) override {
    ReceivedMessage message{.slices = std::move(slices), .payloads = {}};
    v1::StepsRequest request;
    *unreadable =
        wire::SplitMessage(message.slices, wire::kStepsRequestPayloads, &request, absl::MakeSpan(message.payloads));
    if (!unreadable->ok()) return *unreadable;
    id_ = request.id();
    const auto take = [&](absl::string_view method, std::uint32_t result_field, auto* call) {
      method_ = absl::StrCat("Steps.", method);
      result_field_ = result_field;
      layer_ = call->layer();
      call_ = NewTensorCall(context_, std::move(*call), std::move(message));
      return authorize(*RoleOf(method));
    };
    switch (request.call_case()) {
      case v1::StepsRequest::kTrainStep:
        return take("TrainStep", v1::StepsResponse::kTrainStepFieldNumber, request.mutable_train_step());
      case v1::StepsRequest::kInfer:
        return take("Infer", v1::StepsResponse::kInferFieldNumber, request.mutable_infer());
      case v1::StepsRequest::kDenormalize:
        return take("Denormalize", v1::StepsResponse::kDenormalizeFieldNumber, request.mutable_denormalize());
      case v1::StepsRequest::kBackward:
        return take("Backward", v1::StepsResponse::kBackwardFieldNumber, request.mutable_backward());
      case v1::StepsRequest::CALL_NOT_SET:
        break;
    }
    return absl::InvalidArgumentError("the message holds no call: want train_step, infer, denormalize or backward");
  }

  TensorCall& call() override { return *call_; }
  absl::string_view method() const override { return method_; }
  absl::string_view layer() const override { return layer_; }
  absl::string_view request_id() const override { return call_ != nullptr ? call_->request_id() : ""; }

  grpc::ByteBuffer Success() override {
    v1::StepsResponse response;
    response.set_id(id_);
    wire::MessageWriter writer;
    call_->WriteResult(&writer);
    writer.WrapIn(result_field_, response);
    return writer.Finish();
  }

  grpc::ByteBuffer Failure(const absl::Status& status) override {
    v1::StepsResponse response;
    response.set_id(id_);
    v1::CallStatus* out = response.mutable_status();
    out->set_code(static_cast<int>(status.code()));
    out->set_message(std::string(status.message()));
    if (const absl::Duration delay = RetryDelayOf(status); delay > absl::ZeroDuration()) {
      *out->mutable_retry_delay() = ToProtoDuration(delay);
    }
    wire::MessageWriter writer;
    writer.AppendFields(response);
    return writer.Finish();
  }

 private:
  const TensorCallContext& context_;
  int64_t id_ = 0;
  // Of StepsResponse.result.
  std::uint32_t result_field_ = 0;
  std::string method_ = "Steps";
  std::string layer_;
  std::unique_ptr<TensorCall> call_;
};

}  // namespace

TensorStream* NewStepsStream(grpc::CallbackServerContext* context, const TensorStreamContext& streams,
                             OpenStreams* open) {
  return new CallStream(context, "Steps", streams, open, [&streams] { return std::make_unique<Step>(streams.call); });
}

}  // namespace normd::service
