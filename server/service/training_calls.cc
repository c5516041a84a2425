#include <initializer_list>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/layer/layer_error.h"
#include "server/registry/training.h"
#include "server/service/optimizer_conversion.h"
#include "server/service/tensor_call.h"
#include "server/service/training_conversion.h"

namespace normd::service {
namespace {

absl::Status CheckAll(std::initializer_list<const TensorInput*> inputs, const std::optional<TensorOutput>& output) {
  for (const TensorInput* input : inputs) {
    if (absl::Status status = input->CheckNotLost(); !status.ok()) return status;
  }
  return output.has_value() ? output->CheckNotLost() : absl::OkStatus();
}

class TrainStepCall final : public TensorCall {
 public:
  // No `y`: none is wanted.
  TrainStepCall(const registry::LayerRegistry* registry, const v1::TrainStepRequest& request, TensorInput x,
                std::optional<TensorOutput> y)
      : registry_(registry), x_(std::move(x)), y_(std::move(y)), input_(ToTrainStepInput(request)) {
    input_.x = x_.view();
  }

  absl::string_view layer() const override { return input_.layer; }
  int64_t bytes() const override { return x_.size_bytes() * (y_.has_value() ? 2 : 1); }

  absl::Status Compute(const registry::CallControl& control) override {
    absl::StatusOr<registry::TrainStepResult> result =
        registry::TrainStep(*registry_, input_, control, y_.has_value() ? y_->data() : nullptr);
    if (!result.ok()) return result.status();
    response_ = ToProto(*result);
    return absl::OkStatus();
  }

  void WriteResult(wire::MessageWriter* writer) override {
    writer->AppendFields(response_);
    if (y_.has_value()) std::move(*y_).Write(v1::TrainStepResponse::kYFieldNumber, writer);
  }

 protected:
  absl::Status CheckNotLost() const override { return CheckAll({&x_}, y_); }

 private:
  const registry::LayerRegistry* const registry_;
  const TensorInput x_;
  std::optional<TensorOutput> y_;
  registry::TrainStepInput input_;
  v1::TrainStepResponse response_;
};

absl::StatusOr<registry::BackwardInput::Mode> ToBackwardMode(absl::string_view layer, v1::BackwardMode mode) {
  switch (mode) {
    case v1::BACKWARD_MODE_UNSPECIFIED:
    case v1::BACKWARD_MODE_TRAINING:
      return registry::BackwardInput::Mode::kTraining;
    case v1::BACKWARD_MODE_FROZEN:
      return registry::BackwardInput::Mode::kFrozen;
    default:
      return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(layer), "mode is ", static_cast<int>(mode),
                                                     ": want BACKWARD_MODE_TRAINING or BACKWARD_MODE_FROZEN"));
  }
}

class BackwardCall final : public TensorCall {
 public:
  // No `dx`: none is wanted.
  BackwardCall(const registry::LayerRegistry* registry, const v1::BackwardRequest& request,
               registry::BackwardInput::Mode mode, TensorInput x, TensorInput dy, std::optional<TensorOutput> dx)
      : registry_(registry), x_(std::move(x)), dy_(std::move(dy)), dx_(std::move(dx)) {
    input_.layer = request.layer();
    input_.x = x_.view();
    input_.dy = dy_.view();
    input_.mode = mode;
    input_.batch_mean.assign(request.batch_mean().begin(), request.batch_mean().end());
    input_.batch_var.assign(request.batch_var().begin(), request.batch_var().end());
    input_.gamma.assign(request.gamma().begin(), request.gamma().end());
    input_.optimizer = ToOptimizerStep(request);
    input_.version = request.version();
    input_.request_id = request.request_id();
  }

  absl::string_view layer() const override { return input_.layer; }
  int64_t bytes() const override { return x_.size_bytes() * (dx_.has_value() ? 2 : 1) + dy_.size_bytes(); }

  absl::Status Compute(const registry::CallControl& control) override {
    absl::StatusOr<registry::BackwardResult> result =
        registry::Backward(*registry_, input_, control, dx_.has_value() ? dx_->data() : nullptr);
    if (!result.ok()) return result.status();
    response_.mutable_dgamma()->Assign(result->dgamma.begin(), result->dgamma.end());
    response_.mutable_dbeta()->Assign(result->dbeta.begin(), result->dbeta.end());
    response_.mutable_gamma()->Assign(result->gamma.begin(), result->gamma.end());
    response_.mutable_beta()->Assign(result->beta.begin(), result->beta.end());
    response_.set_version(result->version);
    response_.set_content_hash(std::move(result->content_hash));
    response_.set_replayed(result->replayed);
    return absl::OkStatus();
  }

  void WriteResult(wire::MessageWriter* writer) override {
    writer->AppendFields(response_);
    if (dx_.has_value()) std::move(*dx_).Write(v1::BackwardResponse::kDxFieldNumber, writer);
  }

 protected:
  absl::Status CheckNotLost() const override { return CheckAll({&x_, &dy_}, dx_); }

 private:
  const registry::LayerRegistry* const registry_;
  const TensorInput x_;
  const TensorInput dy_;
  std::optional<TensorOutput> dx_;
  registry::BackwardInput input_;
  v1::BackwardResponse response_;
};

// An output like the first of `inputs`, if one is wanted: in `range`, unless it is null.
absl::Status MakeOutput(const TensorMemory& memory, absl::string_view layer, bool omit,
                        const v1::SharedMemoryRange* range, absl::Span<const TensorInput* const> inputs,
                        std::optional<TensorOutput>* output) {
  if (omit) return absl::OkStatus();
  absl::StatusOr<TensorOutput> made = range != nullptr ? TensorOutput::InRegion(memory, layer, *range, inputs)
                                                       : TensorOutput::Like(memory, *inputs.front());
  if (!made.ok()) return made.status();
  *output = *std::move(made);
  return absl::OkStatus();
}

}  // namespace

TensorCallPtr NewTensorCall(const TensorCallContext& context, v1::TrainStepRequest request,
                            const wire::MessageSlices& slices, absl::Span<const wire::Payload> payloads) {
  absl::StatusOr<TensorInput> x =
      TensorInput::Load(context.memory, request.layer(), "x", request.has_x(), request.x(), slices, payloads[0]);
  if (!x.ok()) return x.status();
  std::optional<TensorOutput> y;
  absl::Status status = MakeOutput(context.memory, request.layer(), request.omit_output(),
                                   request.has_y_shared_memory() ? &request.y_shared_memory() : nullptr, {&*x}, &y);
  if (!status.ok()) return status;
  return std::make_unique<TrainStepCall>(context.registry, request, *std::move(x), std::move(y));
}

TensorCallPtr NewTensorCall(const TensorCallContext& context, v1::BackwardRequest request,
                            const wire::MessageSlices& slices, absl::Span<const wire::Payload> payloads) {
  absl::StatusOr<TensorInput> x =
      TensorInput::Load(context.memory, request.layer(), "x", request.has_x(), request.x(), slices, payloads[0]);
  if (!x.ok()) return x.status();
  absl::StatusOr<TensorInput> dy =
      TensorInput::Load(context.memory, request.layer(), "dy", request.has_dy(), request.dy(), slices, payloads[1]);
  if (!dy.ok()) return dy.status();
  absl::StatusOr<registry::BackwardInput::Mode> mode = ToBackwardMode(request.layer(), request.mode());
  if (!mode.ok()) return mode.status();
  std::optional<TensorOutput> dx;
  absl::Status status =
      MakeOutput(context.memory, request.layer(), request.omit_dx(),
                 request.has_dx_shared_memory() ? &request.dx_shared_memory() : nullptr, {&*x, &*dy}, &dx);
  if (!status.ok()) return status;
  return std::make_unique<BackwardCall>(context.registry, request, *mode, *std::move(x), *std::move(dy), std::move(dx));
}

}  // namespace normd::service
