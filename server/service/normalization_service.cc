#include "server/service/normalization_service.h"

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/service/streams.h"

namespace normd::service {
namespace {

// Reads a message and takes its tensors over. `layer` is what it names, as soon as that is known.
template <typename Request>
TensorCallPtr Decode(const TensorCallContext& context, absl::Span<const wire::PayloadField> schema,
                     const grpc::ByteBuffer& message, std::string* layer) {
  const wire::MessageSlices slices(message);
  // What gRPC holds of it counts until the tensors have been gathered.
  const wire::BufferPool::Reservation received = context.memory.buffers->Reserve(slices.size());
  if (!received) {
    return context.memory.executor->Overloaded(
        absl::StrCat("no memory for a message of ", slices.size(), " bytes (--memory-budget)"));
  }
  Request request;
  wire::Payload payloads[wire::kMaxPayloads];
  if (absl::Status status = wire::SplitMessage(slices, schema, &request, absl::MakeSpan(payloads)); !status.ok()) {
    return status;
  }
  *layer = request.layer();
  return NewTensorCall(context, std::move(request), slices, payloads);
}

}  // namespace

template <typename Request>
grpc::ServerUnaryReactor* NormalizationServiceImpl::Handle(grpc::CallbackServerContext* context,
                                                           absl::string_view method,
                                                           absl::Span<const wire::PayloadField> schema,
                                                           const grpc::ByteBuffer* request,
                                                           grpc::ByteBuffer* response) {
  UnaryCall call(context, method, static_cast<int64_t>(request->Length()), context_.observer);
  std::unique_ptr<TensorCall> tensor_call;
  std::string layer;
  absl::Status decoded = WithoutExceptions([&]() -> absl::Status {
    TensorCallPtr made = Decode<Request>(context_.call, schema, *request, &layer);
    if (made.ok()) tensor_call = *std::move(made);
    return made.status();
  });
  // gRPC would hold the message until the call ends.
  const_cast<grpc::ByteBuffer*>(request)->Clear();
  if (!decoded.ok()) {
    call.set_layer(layer);
    call.Finish(decoded);
    return call.reactor();
  }
  call.set_layer(tensor_call->layer());
  const int64_t bytes = tensor_call->bytes();
  TensorExecutor::Job job = [call, response, owned = std::move(tensor_call)](int threads) {
    registry::CallControl control;
    control.threads = threads;
    control.check_alive = [&call] { return call.CheckAlive(); };
    call.Run(
        [&]() -> absl::Status {
          if (absl::Status status = owned->Run(control); !status.ok()) return status;
          wire::MessageWriter writer;
          owned->WriteResult(&writer);
          *response = writer.Finish();
          return absl::OkStatus();
        },
        [response] { return response->Length(); });
  };
  if (absl::Status queued = context_.executor->Run(bytes, std::move(job)); !queued.ok()) {
    call.set_layer(layer);
    call.Finish(queued);
  }
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
