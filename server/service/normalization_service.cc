#include "server/service/normalization_service.h"

#include <cstdint>
#include <memory>
#include <utility>

#include "server/registry/merge_moments.h"
#include "server/service/streams.h"
#include "server/service/training_conversion.h"

namespace normd::service {

template <typename Request>
grpc::ServerUnaryReactor* NormalizationServiceImpl::Handle(grpc::CallbackServerContext* context,
                                                           absl::string_view method,
                                                           absl::Span<const wire::PayloadField> schema,
                                                           const grpc::ByteBuffer* request,
                                                           grpc::ByteBuffer* response) {
  UnaryCall call(context, method, static_cast<int64_t>(request->Length()), context_.observer);
  // Shared with its job, which is gone when it is refused.
  std::shared_ptr<TensorCall> tensor_call;
  absl::Status status = WithoutExceptions([&]() -> absl::Status {
    ReceivedMessage message{.slices = wire::MessageSlices(*request), .payloads = {}};
    // gRPC would hold the message until the call ends; it goes when the tensors have been gathered.
    const_cast<grpc::ByteBuffer*>(request)->Clear();
    Request decoded;
    if (absl::Status split = wire::SplitMessage(message.slices, schema, &decoded, absl::MakeSpan(message.payloads));
        !split.ok()) {
      return split;
    }
    tensor_call = NewTensorCall(context_.call, std::move(decoded), std::move(message));
    return tensor_call->Admit();
  });
  if (tensor_call != nullptr) call.set_request(tensor_call->layer(), tensor_call->request_id());
  if (status.ok()) {
    status = context_.executor->Run(tensor_call->bytes(), [call, response, tensor_call](int threads) {
      registry::CallControl control;
      control.threads = threads;
      control.check_alive = [&call] { return call.CheckAlive(); };
      call.RunAndStore(
          [&](registry::PendingCommitPtr* stored) {
            absl::Status done = tensor_call->Run(control);
            *stored = tensor_call->stored();
            return done;
          },
          [response, tensor_call] {
            wire::MessageWriter writer;
            tensor_call->WriteResult(&writer);
            *response = writer.Finish();
            return response->Length();
          });
    });
  }
  if (!status.ok()) call.Finish(status);
  return call.reactor();
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
  call.RunAndStore(
      [&](registry::PendingCommitPtr* stored) -> absl::Status {
        registry::CallControl control;
        control.check_alive = [&call] { return call.CheckAlive(); };
        absl::StatusOr<registry::MergeMomentsResult> result =
            registry::MergeMoments(*context_.call.registry, ToMergeMomentsInput(*request), control);
        if (!result.ok()) return result.status();
        *response = ToProto(*result);
        *stored = std::move(result->stored);
        return absl::OkStatus();
      },
      [response] { return response->ByteSizeLong(); });
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
