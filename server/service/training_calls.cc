#include <cstdint>
#include <initializer_list>
#include <memory>
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

// Of TrainStep and Backward: an output like the first of `inputs`, in `range` unless that is null.
absl::Status MakeOutput(const TensorSource& source, const v1::SharedMemoryRange* range,
                        absl::Span<const TensorInput* const> inputs, std::optional<TensorOutput>* output) {
  absl::StatusOr<TensorOutput> made =
      range != nullptr ? TensorOutput::InRegion(source, *range, inputs) : TensorOutput::Like(source, *inputs.front());
  if (!made.ok()) return made.status();
  *output = *std::move(made);
  return absl::OkStatus();
}

absl::Status CheckAllNotLost(std::initializer_list<const TensorInput*> inputs,
                             const std::optional<TensorOutput>& output) {
  for (const TensorInput* input : inputs) {
    if (absl::Status status = input->CheckNotLost(); !status.ok()) return status;
  }
  return output.has_value() ? output->CheckNotLost() : absl::OkStatus();
}

class TrainStepCall final : public TensorCall {
 public:
  TrainStepCall(const TensorCallContext& context, v1::TrainStepRequest request, ReceivedMessage message)
      : TensorCall(context, std::move(message)),
        request_(std::move(request)),
        x_bytes_(TensorBytes(request_.x(), payload(0))) {}

  absl::string_view layer() const override { return request_.layer(); }
  absl::string_view request_id() const override { return request_.request_id(); }
  int64_t bytes() const override { return x_bytes_ * (request_.omit_output() ? 1 : 2); }

  const google::protobuf::MessageLite& response() const override { return response_; }
  std::optional<TensorOutput> TakeOutput() override { return std::move(y_); }

 protected:
  int64_t BufferBytes() const override {
    const bool y_needs_one = !request_.omit_output() && !request_.has_y_shared_memory();
    const int buffers = (request_.x().has_shared_memory() ? 0 : 1) + (y_needs_one ? 1 : 0);
    return buffers * service::BufferBytes(x_bytes_);
  }

  absl::Status Load(int threads) override {
    const TensorSource source = Source(0, threads);
    absl::StatusOr<TensorInput> x = TensorInput::Load(source, "x", request_.has_x(), request_.x());
    if (!x.ok()) return x.status();
    x_ = *std::move(x);
    if (request_.omit_output()) return absl::OkStatus();
    return MakeOutput(source, request_.has_y_shared_memory() ? &request_.y_shared_memory() : nullptr, {&*x_}, &y_);
  }

  absl::Status Compute(const registry::CallControl& control) override {
    registry::TrainStepInput input = ToTrainStepInput(request_);
    input.x = x_->view();
    absl::StatusOr<registry::TrainStepResult> result =
        registry::TrainStep(registry(), input, control, y_.has_value() ? y_->data() : nullptr);
    if (!result.ok()) return result.status();
    set_stored(std::move(result->stored));
    response_ = ToProto(*result);
    return absl::OkStatus();
  }

  absl::Status CheckNotLost() const override { return CheckAllNotLost({&*x_}, y_); }
  // y may be written after the commit, for which the statistics were enough.
  absl::Status CheckResultNotLost() const override {
    const bool committed = !request_.skip_update() && !response_.replayed();
    return committed && !y_.has_value() ? absl::OkStatus() : CheckNotLost();
  }

 private:
  const v1::TrainStepRequest request_;
  const int64_t x_bytes_;
  std::optional<TensorInput> x_;
  // Absent: none is wanted.
  std::optional<TensorOutput> y_;
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
  BackwardCall(const TensorCallContext& context, v1::BackwardRequest request, ReceivedMessage message)
      : TensorCall(context, std::move(message)),
        request_(std::move(request)),
        x_bytes_(TensorBytes(request_.x(), payload(0))),
        dy_bytes_(TensorBytes(request_.dy(), payload(1))) {}

  absl::string_view layer() const override { return request_.layer(); }
  absl::string_view request_id() const override { return request_.request_id(); }
  int64_t bytes() const override { return x_bytes_ * (request_.omit_dx() ? 1 : 2) + dy_bytes_; }

  const google::protobuf::MessageLite& response() const override { return response_; }
  std::optional<TensorOutput> TakeOutput() override { return std::move(dx_); }

 protected:
  int64_t BufferBytes() const override {
    const bool dx_needs_one = !request_.omit_dx() && !request_.has_dx_shared_memory();
    const int like_x = (request_.x().has_shared_memory() ? 0 : 1) + (dx_needs_one ? 1 : 0);
    const int like_dy = request_.dy().has_shared_memory() ? 0 : 1;
    return like_x * service::BufferBytes(x_bytes_) + like_dy * service::BufferBytes(dy_bytes_);
  }

  absl::Status Load(int threads) override {
    const TensorSource source = Source(0, threads);
    absl::StatusOr<TensorInput> x = TensorInput::Load(source, "x", request_.has_x(), request_.x());
    if (!x.ok()) return x.status();
    x_ = *std::move(x);
    absl::StatusOr<TensorInput> dy = TensorInput::Load(Source(1, threads), "dy", request_.has_dy(), request_.dy());
    if (!dy.ok()) return dy.status();
    dy_ = *std::move(dy);
    if (request_.omit_dx()) return absl::OkStatus();
    return MakeOutput(source, request_.has_dx_shared_memory() ? &request_.dx_shared_memory() : nullptr, {&*x_, &*dy_},
                      &dx_);
  }

  absl::Status Compute(const registry::CallControl& control) override {
    absl::StatusOr<registry::BackwardInput::Mode> mode = ToBackwardMode(layer(), request_.mode());
    if (!mode.ok()) return mode.status();
    registry::BackwardInput input;
    input.layer = request_.layer();
    input.x = x_->view();
    input.dy = dy_->view();
    input.mode = *mode;
    input.batch_mean.assign(request_.batch_mean().begin(), request_.batch_mean().end());
    input.batch_var.assign(request_.batch_var().begin(), request_.batch_var().end());
    input.gamma.assign(request_.gamma().begin(), request_.gamma().end());
    input.optimizer = ToOptimizerStep(request_);
    input.version = request_.version();
    input.request_id = request_.request_id();
    absl::StatusOr<registry::BackwardResult> result =
        registry::Backward(registry(), input, control, dx_.has_value() ? dx_->data() : nullptr);
    if (!result.ok()) return result.status();
    set_stored(std::move(result->stored));
    response_.mutable_dgamma()->Assign(result->dgamma.begin(), result->dgamma.end());
    response_.mutable_dbeta()->Assign(result->dbeta.begin(), result->dbeta.end());
    response_.mutable_gamma()->Assign(result->gamma.begin(), result->gamma.end());
    response_.mutable_beta()->Assign(result->beta.begin(), result->beta.end());
    response_.set_version(result->version);
    response_.set_content_hash(std::move(result->content_hash));
    response_.set_replayed(result->replayed);
    return absl::OkStatus();
  }

  absl::Status CheckNotLost() const override { return CheckAllNotLost({&*x_, &*dy_}, dx_); }
  // All gradients are computed before the commit.
  absl::Status CheckResultNotLost() const override {
    const bool committed = request_.optimizer_case() != v1::BackwardRequest::OPTIMIZER_NOT_SET && !response_.replayed();
    return committed ? CheckAllNotLost({}, dx_) : CheckNotLost();
  }

 private:
  const v1::BackwardRequest request_;
  const int64_t x_bytes_;
  const int64_t dy_bytes_;
  std::optional<TensorInput> x_;
  std::optional<TensorInput> dy_;
  // Absent: none is wanted.
  std::optional<TensorOutput> dx_;
  v1::BackwardResponse response_;
};

}  // namespace

std::unique_ptr<TensorCall> NewTensorCall(const TensorCallContext& context, v1::TrainStepRequest request,
                                          ReceivedMessage message) {
  return std::make_unique<TrainStepCall>(context, std::move(request), std::move(message));
}

std::unique_ptr<TensorCall> NewTensorCall(const TensorCallContext& context, v1::BackwardRequest request,
                                          ReceivedMessage message) {
  return std::make_unique<BackwardCall>(context, std::move(request), std::move(message));
}

}  // namespace normd::service
