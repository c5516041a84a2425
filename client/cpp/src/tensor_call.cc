#include "client/cpp/src/tensor_call.h"

#include <cstring>
#include <optional>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "client/cpp/src/convert.h"
#include "client/cpp/src/handover.h"
#include "normd/v1/normalization_service.pb.h"
#include "proto/wire/message_slices.h"
#include "proto/wire/split_message.h"

namespace normd::internal {
namespace {

std::string OrNew(const std::string& request_id, Runtime* runtime) {
  return request_id.empty() ? runtime->NewRequestId() : request_id;
}

// Says where the result goes: as long as `like`, unless it is omitted. `field` is that of a place in shared memory.
absl::Status SetOutput(absl::string_view layer, std::uint32_t field, absl::Span<char> into, const TensorView& like,
                       bool omitted, TensorCall* call) {
  const std::size_t size = omitted ? 0 : like.data.size();
  if (!into.empty() && into.size() != size) {
    return absl::InvalidArgumentError(absl::StrCat("layer '", layer, "': `into` has ", into.size(), " bytes, want ",
                                                   size, omitted ? ", since the result is omitted" : ""));
  }
  call->output_field = field;
  call->output_bytes = size;
  call->into = into;
  return absl::OkStatus();
}

template <typename Request>
absl::StatusOr<TensorCall> InferenceCall(TensorMethod method, absl::string_view name, std::uint32_t field,
                                         std::uint32_t output_field, absl::string_view layer, const TensorView& tensor,
                                         const InferOptions& options) {
  if (absl::Status status = CheckTensor(layer, name, tensor); !status.ok()) return status;
  TensorCall call{.method = method, .layer = std::string(layer), .inputs = {{.field = field, .tensor = tensor}}};
  if (absl::Status status = SetOutput(layer, output_field, options.into, tensor, false, &call); !status.ok())
    return status;
  auto request = std::make_shared<Request>();
  request->set_layer(layer.data(), layer.size());
  request->set_version(options.version);
  call.fields = std::move(request);
  return call;
}

v1::SharedMemoryRange RangeOf(const SharedMemory::Place& place) {
  v1::SharedMemoryRange range;
  range.set_region(place.region);
  range.set_offset(place.offset);
  return range;
}

std::uint32_t StepField(TensorMethod method) {
  switch (method) {
    case TensorMethod::kTrainStep:
      return v1::StepsRequest::kTrainStepFieldNumber;
    case TensorMethod::kInfer:
      return v1::StepsRequest::kInferFieldNumber;
    case TensorMethod::kDenormalize:
      return v1::StepsRequest::kDenormalizeFieldNumber;
    case TensorMethod::kBackward:
      break;
  }
  return v1::StepsRequest::kBackwardFieldNumber;
}

template <typename Response>
auto DecodeAs(const TensorCall& call, const grpc::ByteBuffer& answer, wire::BufferPool* pool) {
  using Result = decltype(Take(std::declval<Response*>(), std::declval<const Elements&>()));
  const wire::MessageSlices message(answer);
  Response response;
  wire::Payload payloads[wire::kMaxPayloads];
  if (absl::Status status =
          wire::SplitMessage(message, wire::kTensorResponsePayloads, &response, absl::MakeSpan(payloads));
      !status.ok()) {
    return Result(absl::InternalError(absl::StrCat("the server's answer cannot be read: ", status.message())));
  }
  Elements elements{&message, payloads[0], call.into, pool, {}};
  if (call.output.has_value() && payloads[0].size == 0) {
    elements.shared = {call.output->data(), call.output_bytes};
    elements.owner = call.output->memory;
  }
  return Take(&response, elements);
}

}  // namespace

grpc::Slice Share(absl::Span<const char> data, std::shared_ptr<const void> owner) {
  using Owner = std::shared_ptr<const void>;
  return grpc::Slice(
      const_cast<char*>(data.data()), data.size(),
      [](void* shared) {
        handover::Take();
        delete static_cast<Owner*>(shared);
      },
      new Owner(std::move(owner)));
}

std::string TrainStepFields(absl::string_view layer, const TrainStepOptions& options, Runtime* runtime,
                            v1::TrainStepRequest* request) {
  // A step that stores nothing needs no memory of it on the server.
  std::string request_id = options.skip_update ? options.request_id : OrNew(options.request_id, runtime);
  request->set_layer(layer.data(), layer.size());
  request->mutable_gamma()->Assign(options.gamma.begin(), options.gamma.end());
  request->mutable_beta()->Assign(options.beta.begin(), options.beta.end());
  request->set_omit_output(options.omit_output);
  request->set_skip_update(options.skip_update);
  request->set_request_id(request_id);
  return request_id;
}

absl::StatusOr<TensorCall> TrainStepCall(absl::string_view layer, const TensorView& x, const TrainStepOptions& options,
                                         Runtime* runtime) {
  if (absl::Status status = CheckTensor(layer, "x", x); !status.ok()) return status;
  TensorCall call{.method = TensorMethod::kTrainStep,
                  .layer = std::string(layer),
                  .inputs = {{.field = v1::TrainStepRequest::kXFieldNumber, .tensor = x}}};
  if (absl::Status status = SetOutput(layer, v1::TrainStepRequest::kYSharedMemoryFieldNumber, options.into, x,
                                      options.omit_output, &call);
      !status.ok())
    return status;
  auto request = std::make_shared<v1::TrainStepRequest>();
  call.request_id = TrainStepFields(layer, options, runtime, request.get());
  call.fields = std::move(request);
  return call;
}

absl::StatusOr<TensorCall> InferCall(absl::string_view layer, const TensorView& x, const InferOptions& options) {
  return InferenceCall<v1::InferRequest>(TensorMethod::kInfer, "x", v1::InferRequest::kXFieldNumber,
                                         v1::InferRequest::kYSharedMemoryFieldNumber, layer, x, options);
}

absl::StatusOr<TensorCall> DenormalizeCall(absl::string_view layer, const TensorView& y, const InferOptions& options) {
  return InferenceCall<v1::DenormalizeRequest>(TensorMethod::kDenormalize, "y", v1::DenormalizeRequest::kYFieldNumber,
                                               v1::DenormalizeRequest::kXSharedMemoryFieldNumber, layer, y, options);
}

absl::StatusOr<TensorCall> BackwardCall(absl::string_view layer, const TensorView& x, const TensorView& dy,
                                        const BackwardOptions& options, Runtime* runtime) {
  if (absl::Status status = CheckTensor(layer, "x", x); !status.ok()) return status;
  if (absl::Status status = CheckTensor(layer, "dy", dy); !status.ok()) return status;
  if (absl::Status status = CheckTogether(layer, x, dy); !status.ok()) return status;
  TensorCall call{
      .method = TensorMethod::kBackward,
      .layer = std::string(layer),
      .inputs = {{.field = v1::BackwardRequest::kXFieldNumber, .tensor = x},
                 {.field = v1::BackwardRequest::kDyFieldNumber, .tensor = dy}},
  };
  if (absl::Status status =
          SetOutput(layer, v1::BackwardRequest::kDxSharedMemoryFieldNumber, options.into, x, options.omit_dx, &call);
      !status.ok())
    return status;
  const bool mutates = !std::holds_alternative<std::monostate>(options.optimizer);
  call.request_id = mutates ? OrNew(options.request_id, runtime) : options.request_id;
  auto request = std::make_shared<v1::BackwardRequest>();
  request->set_layer(layer.data(), layer.size());
  request->set_mode(options.frozen ? v1::BACKWARD_MODE_FROZEN : v1::BACKWARD_MODE_TRAINING);
  request->mutable_batch_mean()->Assign(options.batch_mean.begin(), options.batch_mean.end());
  request->mutable_batch_var()->Assign(options.batch_var.begin(), options.batch_var.end());
  request->mutable_gamma()->Assign(options.gamma.begin(), options.gamma.end());
  if (const Sgd* sgd = std::get_if<Sgd>(&options.optimizer)) *request->mutable_sgd() = ToProto(*sgd);
  if (const Adam* adam = std::get_if<Adam>(&options.optimizer)) *request->mutable_adam() = ToProto(*adam);
  request->set_omit_dx(options.omit_dx);
  request->set_request_id(call.request_id);
  request->set_version(options.version);
  call.fields = std::move(request);
  return call;
}

absl::Status OwnInputs(TensorCall* call, wire::BufferPool* pool) {
  for (TensorCall::Input& input : call->inputs) {
    TensorView& tensor = input.tensor;
    if (tensor.owner != nullptr || tensor.data.empty()) continue;
    const auto copy = std::make_shared<wire::Buffer>(pool->Allocate(tensor.data.size()));
    if (!*copy) {
      return absl::ResourceExhaustedError(absl::StrCat("no room for ", tensor.data.size(), " bytes to send, ",
                                                       pool->in_use_bytes(), " of ", pool->budget_bytes(),
                                                       " in use by this client (ClientOptions::max_buffer_bytes)"));
    }
    std::memcpy(copy->data(), tensor.data.data(), tensor.data.size());
    tensor.data = {copy->data(), copy->size()};
    tensor.owner = copy;
  }
  return absl::OkStatus();
}

wire::MessageWriter Encode(const TensorCall& call) {
  wire::MessageWriter writer;
  writer.AppendFields(*call.fields);
  for (const TensorCall::Input& input : call.inputs) {
    v1::Tensor header;
    DescribeTensor(input.tensor, &header);
    if (input.place.has_value()) {
      *header.mutable_shared_memory() = RangeOf(*input.place);
      writer.AppendBytes(input.field, grpc::Slice(header.SerializeAsString()));
      continue;
    }
    writer.AppendPayload(input.field, header, v1::Tensor::kDataFieldNumber,
                         Share(input.tensor.data, input.tensor.owner));
  }
  if (call.output.has_value()) {
    writer.AppendBytes(call.output_field, grpc::Slice(RangeOf(*call.output).SerializeAsString()));
  }
  return writer;
}

grpc::ByteBuffer EncodeStep(const TensorCall& call, int64_t id) {
  v1::StepsRequest step;
  step.set_id(id);
  wire::MessageWriter writer = Encode(call);
  writer.WrapIn(StepField(call.method), step);
  return writer.Finish();
}

template <>
absl::StatusOr<TrainStepResult> Decode(const TensorCall& call, const grpc::ByteBuffer& answer, wire::BufferPool* pool) {
  return DecodeAs<v1::TrainStepResponse>(call, answer, pool);
}

template <>
absl::StatusOr<InferResult> Decode(const TensorCall& call, const grpc::ByteBuffer& answer, wire::BufferPool* pool) {
  if (call.method == TensorMethod::kInfer) return DecodeAs<v1::InferResponse>(call, answer, pool);
  return DecodeAs<v1::DenormalizeResponse>(call, answer, pool);
}

template <>
absl::StatusOr<BackwardResult> Decode(const TensorCall& call, const grpc::ByteBuffer& answer, wire::BufferPool* pool) {
  return DecodeAs<v1::BackwardResponse>(call, answer, pool);
}

absl::Status ReadStep(const grpc::ByteBuffer& message, StepAnswer* answer) {
  answer->message = wire::MessageSlices(message);
  wire::Payload payloads[wire::kMaxPayloads];
  const absl::Status status =
      wire::SplitMessage(answer->message, wire::kStepsResponsePayloads, &answer->response, absl::MakeSpan(payloads));
  if (!status.ok()) return absl::InternalError(absl::StrCat("the server's answer cannot be read: ", status.message()));
  answer->payload = payloads[0];
  return absl::OkStatus();
}

template <>
absl::StatusOr<TrainStepResult> DecodeStep(const TensorCall& call, StepAnswer* answer, wire::BufferPool* pool) {
  return Take(answer->response.mutable_train_step(), {&answer->message, answer->payload, call.into, pool, {}, {}});
}

template <>
absl::StatusOr<InferResult> DecodeStep(const TensorCall& call, StepAnswer* answer, wire::BufferPool* pool) {
  const Elements elements{&answer->message, answer->payload, call.into, pool, {}, {}};
  if (call.method == TensorMethod::kInfer) return Take(answer->response.mutable_infer(), elements);
  return Take(answer->response.mutable_denormalize(), elements);
}

template <>
absl::StatusOr<BackwardResult> DecodeStep(const TensorCall& call, StepAnswer* answer, wire::BufferPool* pool) {
  return Take(answer->response.mutable_backward(), {&answer->message, answer->payload, call.into, pool, {}, {}});
}

}  // namespace normd::internal
