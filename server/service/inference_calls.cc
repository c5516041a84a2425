#include <utility>

#include "server/registry/inference.h"
#include "server/service/tensor_call.h"

namespace normd::service {
namespace {

// Infer or Denormalize: one tensor in, one out in its place.
template <typename Request, typename Response>
class InferenceCall final : public TensorCall {
 public:
  using Compute = absl::StatusOr<registry::InferenceResult> (*)(const registry::LayerRegistry&, absl::string_view,
                                                                const layer::TensorView&, int64_t,
                                                                const registry::CallControl&, char*);

  InferenceCall(const registry::LayerRegistry* registry, Request request, Compute compute, TensorInput input)
      : registry_(registry),
        request_(std::move(request)),
        compute_(compute),
        input_(std::move(input)),
        output_(TensorOutput::InPlaceOf(&input_)) {}

  absl::string_view layer() const override { return request_.layer(); }
  int64_t bytes() const override { return 2 * input_.size_bytes(); }

  absl::Status Run(const registry::CallControl& control) override {
    absl::StatusOr<registry::InferenceResult> result =
        compute_(*registry_, request_.layer(), input_.view(), request_.version(), control, output_.data());
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

 private:
  const registry::LayerRegistry* const registry_;
  const Request request_;
  const Compute compute_;
  TensorInput input_;
  TensorOutput output_;
  Response response_;
};

}  // namespace

TensorCallPtr NewTensorCall(const TensorCallContext& context, v1::InferRequest request,
                            const wire::MessageSlices& slices, absl::Span<const wire::Payload> payloads) {
  absl::StatusOr<TensorInput> x =
      TensorInput::Load(context.memory, request.layer(), "x", request.has_x(), request.x(), slices, payloads[0]);
  if (!x.ok()) return x.status();
  return std::make_unique<InferenceCall<v1::InferRequest, v1::InferResponse>>(context.registry, std::move(request),
                                                                              &registry::Infer, *std::move(x));
}

TensorCallPtr NewTensorCall(const TensorCallContext& context, v1::DenormalizeRequest request,
                            const wire::MessageSlices& slices, absl::Span<const wire::Payload> payloads) {
  absl::StatusOr<TensorInput> y =
      TensorInput::Load(context.memory, request.layer(), "y", request.has_y(), request.y(), slices, payloads[0]);
  if (!y.ok()) return y.status();
  return std::make_unique<InferenceCall<v1::DenormalizeRequest, v1::DenormalizeResponse>>(
      context.registry, std::move(request), &registry::Denormalize, *std::move(y));
}

}  // namespace normd::service
