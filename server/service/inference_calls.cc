#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "server/registry/inference.h"
#include "server/service/tensor_call.h"

namespace normd::service {
namespace {

// What a request says of its tensor, and of where the result goes: in a range, or null.
struct Operand {
  absl::string_view what;
  bool present;
  const v1::Tensor& tensor;
  const v1::SharedMemoryRange* range;
};

Operand OperandOf(const v1::InferRequest& request) {
  return {"x", request.has_x(), request.x(), request.has_y_shared_memory() ? &request.y_shared_memory() : nullptr};
}

Operand OperandOf(const v1::DenormalizeRequest& request) {
  return {"y", request.has_y(), request.y(), request.has_x_shared_memory() ? &request.x_shared_memory() : nullptr};
}

// Infer or Denormalize: one tensor in, one out. Nobody needs the input afterwards unless it is the client's, so the
// result goes in its place.
template <typename Request, typename Response>
class InferenceCall final : public TensorCall {
 public:
  InferenceCall(const TensorCallContext& context, Request request, ReceivedMessage message)
      : TensorCall(context, std::move(message)),
        request_(std::move(request)),
        operand_(OperandOf(request_)),
        tensor_bytes_(TensorBytes(operand_.tensor, payload(0))) {}

  absl::string_view layer() const override { return request_.layer(); }
  int64_t bytes() const override { return 2 * tensor_bytes_; }

  const google::protobuf::MessageLite& response() const override { return response_; }
  std::optional<TensorOutput> TakeOutput() override { return std::move(output_); }

 protected:
  // The one that input and output share, unless they are in shared memory.
  int64_t BufferBytes() const override {
    const bool both_in_regions = operand_.tensor.has_shared_memory() && operand_.range != nullptr;
    return both_in_regions ? 0 : service::BufferBytes(tensor_bytes_);
  }

  absl::Status Load(int threads) override {
    const TensorSource source = Source(0, threads);
    gathered_ = !kGathersWhileComputing || operand_.range != nullptr || operand_.tensor.has_shared_memory();
    absl::StatusOr<TensorInput> input =
        gathered_ ? TensorInput::Load(source, operand_.what, operand_.present, operand_.tensor)
                  : TensorInput::Prepare(source, operand_.what, operand_.present, operand_.tensor);
    if (!input.ok()) return input.status();
    input_ = *std::move(input);
    absl::StatusOr<TensorOutput> output = MakeOutput(source);
    if (!output.ok()) return output.status();
    output_ = *std::move(output);
    return absl::OkStatus();
  }

  absl::Status Compute(const registry::CallControl& control) override {
    absl::StatusOr<registry::InferenceResult> result = Call(control);
    if (!result.ok()) return result.status();
    response_.set_version(result->version);
    response_.set_content_hash(std::move(result->content_hash));
    return absl::OkStatus();
  }

  absl::Status CheckNotLost() const override {
    if (absl::Status status = input_->CheckNotLost(); !status.ok()) return status;
    return output_->CheckNotLost();
  }

 private:
  static constexpr bool kGathersWhileComputing = std::is_same_v<Request, v1::InferRequest>;

  absl::StatusOr<TensorOutput> MakeOutput(const TensorSource& source) {
    if (operand_.range != nullptr) return TensorOutput::InRegion(source, *operand_.range, {&*input_});
    if (input_->in_region()) return TensorOutput::Like(source, *input_);
    return TensorOutput::InPlaceOf(&*input_);
  }

  absl::StatusOr<registry::InferenceResult> Call(const registry::CallControl& control) {
    const layer::TensorView& view = input_->view();
    if constexpr (kGathersWhileComputing) {
      if (gathered_) {
        return registry::Infer(registry(), layer(), view, request_.version(), control, output_->data());
      }
      const TensorSource source = Source(0, control.threads);
      const auto gather = [&source](int64_t begin, absl::Span<char> out) {
        source.slices.Copy(source.payload.begin + static_cast<std::size_t>(begin), out.size(), out.data());
      };
      return registry::InferGathered(registry(), layer(), view, request_.version(), control, gather, output_->data());
    } else {
      return registry::Denormalize(registry(), layer(), view, request_.version(), control, output_->data());
    }
  }

  const Request request_;
  // Of request_.
  const Operand operand_;
  const int64_t tensor_bytes_;
  std::optional<TensorInput> input_;
  // The input is where view() says, not in the message.
  bool gathered_ = true;
  std::optional<TensorOutput> output_;
  Response response_;
};

}  // namespace

std::unique_ptr<TensorCall> NewTensorCall(const TensorCallContext& context, v1::InferRequest request,
                                          ReceivedMessage message) {
  return std::make_unique<InferenceCall<v1::InferRequest, v1::InferResponse>>(context, std::move(request),
                                                                              std::move(message));
}

std::unique_ptr<TensorCall> NewTensorCall(const TensorCallContext& context, v1::DenormalizeRequest request,
                                          ReceivedMessage message) {
  return std::make_unique<InferenceCall<v1::DenormalizeRequest, v1::DenormalizeResponse>>(context, std::move(request),
                                                                                          std::move(message));
}

}  // namespace normd::service
