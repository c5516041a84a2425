#include <utility>

#include "server/registry/inference.h"
#include "server/service/tensor_call.h"

namespace normd::service {
namespace {

// Infer or Denormalize: one tensor in, one out in its place.
template <typename Request, typename Response>
class InferenceCall final : public TensorCall {
 public:
  using Function = absl::StatusOr<registry::InferenceResult> (*)(const registry::LayerRegistry&, absl::string_view,
                                                                 const layer::TensorView&, int64_t,
                                                                 const registry::CallControl&, char*);

  InferenceCall(const registry::LayerRegistry* registry, Request request, Function function, TensorInput input,
                TensorOutput output)
      : registry_(registry),
        request_(std::move(request)),
        function_(function),
        input_(std::move(input)),
        output_(std::move(output)) {}

  absl::string_view layer() const override { return request_.layer(); }
  int64_t bytes() const override { return 2 * input_.size_bytes(); }

  absl::Status Compute(const registry::CallControl& control) override {
    absl::StatusOr<registry::InferenceResult> result =
        function_(*registry_, request_.layer(), input_.view(), request_.version(), control, output_.data());
    if (!result.ok()) return result.status();
    response_.set_version(result->version);
    response_.set_content_hash(std::move(result->content_hash));
    return absl::OkStatus();
  }

  void WriteResult(wire::MessageWriter* writer) override {
    writer->AppendFields(response_);
    // InferResponse.y and DenormalizeResponse.x.
    std::move(output_).Write(1, writer);
  }

  absl::Status CheckNotLost() const override {
    if (absl::Status status = input_.CheckNotLost(); !status.ok()) return status;
    return output_.CheckNotLost();
  }

 private:
  const registry::LayerRegistry* const registry_;
  const Request request_;
  const Function function_;
  TensorInput input_;
  TensorOutput output_;
  Response response_;
};

// `range`: where the result goes, or null.
template <typename Request, typename Response>
TensorCallPtr NewInferenceCall(const TensorCallContext& context, Request request,
                               typename InferenceCall<Request, Response>::Function function,
                               const v1::SharedMemoryRange* range, absl::StatusOr<TensorInput> input) {
  if (!input.ok()) return input.status();
  // Nobody needs the input any more, unless it is the client's.
  absl::StatusOr<TensorOutput> output =
      range != nullptr     ? TensorOutput::InRegion(context.memory, request.layer(), *range, {&*input})
      : input->in_region() ? TensorOutput::Like(context.memory, *input)
                           : absl::StatusOr<TensorOutput>(TensorOutput::InPlaceOf(&*input));
  if (!output.ok()) return output.status();
  return std::make_unique<InferenceCall<Request, Response>>(context.registry, std::move(request), function,
                                                            *std::move(input), *std::move(output));
}

}  // namespace

TensorCallPtr NewTensorCall(const TensorCallContext& context, v1::InferRequest request,
                            const wire::MessageSlices& slices, absl::Span<const wire::Payload> payloads) {
  absl::StatusOr<TensorInput> x =
      TensorInput::Load(context.memory, request.layer(), "x", request.has_x(), request.x(), slices, payloads[0]);
  const v1::SharedMemoryRange* range = request.has_y_shared_memory() ? &request.y_shared_memory() : nullptr;
  return NewInferenceCall<v1::InferRequest, v1::InferResponse>(context, request, &registry::Infer, range, std::move(x));
}

TensorCallPtr NewTensorCall(const TensorCallContext& context, v1::DenormalizeRequest request,
                            const wire::MessageSlices& slices, absl::Span<const wire::Payload> payloads) {
  absl::StatusOr<TensorInput> y =
      TensorInput::Load(context.memory, request.layer(), "y", request.has_y(), request.y(), slices, payloads[0]);
  const v1::SharedMemoryRange* range = request.has_x_shared_memory() ? &request.x_shared_memory() : nullptr;
  return NewInferenceCall<v1::DenormalizeRequest, v1::DenormalizeResponse>(context, request, &registry::Denormalize,
                                                                           range, std::move(y));
}

}  // namespace normd::service
