#include "server/service/normalization_service.h"

#include <cstdint>
#include <memory>
#include <utility>

#include "server/registry/merge_moments.h"
#include "server/service/streams.h"
#include "server/service/tensor_unary.h"
#include "server/service/training_conversion.h"

namespace normd::service {

namespace {

// A call whose request is a message of its own.
template <typename Request>
class UnaryTensorCall {
 public:
  UnaryTensorCall(const TensorCallContext& context, access::Role role, absl::Span<const wire::PayloadField> schema)
      : context_(context), role_(role), schema_(schema) {}

  absl::Status Decode(wire::MessageSlices slices, Authorize authorize) {
    ReceivedMessage message{.slices = std::move(slices), .payloads = {}};
    Request request;
    absl::Status status = wire::SplitMessage(message.slices, schema_, &request, absl::MakeSpan(message.payloads));
    if (!status.ok()) return status;
    call_ = NewTensorCall(context_, std::move(request), std::move(message));
    return authorize(role_);
  }
  absl::string_view layer() const { return call_ != nullptr ? call_->layer() : ""; }
  absl::string_view request_id() const { return call_ != nullptr ? call_->request_id() : ""; }
  TensorCall& call() { return *call_; }
  void WriteResponse(wire::MessageWriter* writer) { call_->WriteResult(writer); }

 private:
  const TensorCallContext& context_;
  const access::Role role_;
  const absl::Span<const wire::PayloadField> schema_;
  std::unique_ptr<TensorCall> call_;
};

}  // namespace

template <typename Request>
grpc::ServerUnaryReactor* NormalizationServiceImpl::Handle(grpc::CallbackServerContext* context,
                                                           absl::string_view method,
                                                           absl::Span<const wire::PayloadField> schema,
                                                           const grpc::ByteBuffer* request,
                                                           grpc::ByteBuffer* response) {
  const UnaryCall call(context, method, static_cast<int64_t>(request->Length()), context_.observer);
  return HandleTensorCall(call, context_, request, response,
                          std::make_shared<UnaryTensorCall<Request>>(context_.call, *RoleOf(method), schema));
}

grpc::ServerUnaryReactor* NormalizationServiceImpl::TrainStep(grpc::CallbackServerContext* context,
                                                              const grpc::ByteBuffer* request,
                                                              grpc::ByteBuffer* response) {
  return Handle<v1::TrainStepRequest>(context, "TrainStep", wire::kTrainStepRequestPayloads, request, response);
}

grpc::ServerUnaryReactor* NormalizationServiceImpl::Infer(grpc::CallbackServerContext* context,
                                                          const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  return Handle<v1::InferRequest>(context, "Infer", wire::kInferRequestPayloads, request, response);
}

grpc::ServerUnaryReactor* NormalizationServiceImpl::Denormalize(grpc::CallbackServerContext* context,
                                                                const grpc::ByteBuffer* request,
                                                                grpc::ByteBuffer* response) {
  return Handle<v1::DenormalizeRequest>(context, "Denormalize", wire::kDenormalizeRequestPayloads, request, response);
}

grpc::ServerUnaryReactor* NormalizationServiceImpl::Backward(grpc::CallbackServerContext* context,
                                                             const grpc::ByteBuffer* request,
                                                             grpc::ByteBuffer* response) {
  return Handle<v1::BackwardRequest>(context, "Backward", wire::kBackwardRequestPayloads, request, response);
}

grpc::ServerUnaryReactor* NormalizationServiceImpl::MergeMoments(grpc::CallbackServerContext* context,
                                                                 const v1::MergeMomentsRequest* request,
                                                                 v1::MergeMomentsResponse* response) {
  UnaryCall call(context, "MergeMoments", static_cast<int64_t>(request->ByteSizeLong()), context_.observer);
  call.set_request(request->layer(), request->request_id());
  const auto merge = [this, call, request, response](registry::PendingCommitPtr* stored) -> absl::Status {
    registry::CallControl control;
    control.check_alive = [&call] { return call.CheckAlive(); };
    absl::StatusOr<registry::MergeMomentsResult> result =
        registry::MergeMoments(*context_.call.registry, ToMergeMomentsInput(*request), control);
    if (!result.ok()) return result.status();
    *response = ToProto(*result);
    *stored = std::move(result->stored);
    return absl::OkStatus();
  };
  const auto merge_if_allowed = [&](registry::PendingCommitPtr* stored) -> absl::Status {
    absl::Status allowed = call.CheckAccess(access::Role::kTrain, request->layer());
    return allowed.ok() ? merge(stored) : allowed;
  };
  call.RunAndStore(merge_if_allowed, merge, [response] { return response->ByteSizeLong(); });
  return call.reactor();
}

NormalizationServiceImpl::RawStream* NormalizationServiceImpl::Steps(grpc::CallbackServerContext* context) {
  return NewStepsStream(context, context_, &open_streams_);
}

NormalizationServiceImpl::RawStream* NormalizationServiceImpl::InferStream(grpc::CallbackServerContext* context) {
  return NewInferStream(context, context_);
}

NormalizationServiceImpl::RawStream* NormalizationServiceImpl::TrainStepStream(grpc::CallbackServerContext* context) {
  return NewTrainStepStream(context, context_);
}

}  // namespace normd::service
