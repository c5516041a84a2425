#include <memory>
#include <optional>
#include <utility>

#include "server/registry/inference.h"
#include "server/service/tensor_call.h"

namespace normd::service {
namespace {

// Of Infer and Denormalize: one tensor in, one out. Nobody needs the input afterwards unless it is the client's, so the
// result goes in its place.
absl::StatusOr<TensorOutput> MakeOutput(const TensorSource& source, const v1::SharedMemoryRange* range,
                                        TensorInput* input) {
  if (range != nullptr) return TensorOutput::InRegion(source, *range, {input});
  if (input->in_region()) return TensorOutput::Like(source, *input);
  return TensorOutput::InPlaceOf(input);
}

// The one buffer that both share, unless they are in shared memory.
int64_t BufferBytesFor(bool input_in_region, bool output_in_region, int64_t tensor_bytes) {
  return input_in_region && output_in_region ? 0 : service::BufferBytes(tensor_bytes);
}

class InferCall final : public TensorCall {
 public:
  InferCall(const TensorCallContext& context, v1::InferRequest request, ReceivedMessage message)
      : TensorCall(context, std::move(message)),
        request_(std::move(request)),
        x_bytes_(TensorBytes(request_.x(), payload(0))) {}

  absl::string_view layer() const override { return request_.layer(); }
  int64_t bytes() const override { return 2 * x_bytes_; }

  void WriteResult(wire::MessageWriter* writer) override {
    writer->AppendFields(response_);
    std::move(*y_).Write(v1::InferResponse::kYFieldNumber, writer);
  }

 protected:
  int64_t BufferBytes() const override {
    return BufferBytesFor(request_.x().has_shared_memory(), request_.has_y_shared_memory(), x_bytes_);
  }

  absl::Status Load(int threads) override {
    const TensorSource source = Source(0, threads);
    const bool in_region = request_.has_y_shared_memory();
    absl::StatusOr<TensorInput> x = in_region ? TensorInput::Load(source, "x", request_.has_x(), request_.x())
                                              : TensorInput::Prepare(source, "x", request_.has_x(), request_.x());
    if (!x.ok()) return x.status();
    gathered_ = in_region || x->in_region();
    x_ = *std::move(x);
    absl::StatusOr<TensorOutput> y = MakeOutput(source, in_region ? &request_.y_shared_memory() : nullptr, &*x_);
    if (!y.ok()) return y.status();
    y_ = *std::move(y);
    return absl::OkStatus();
  }

  absl::Status Compute(const registry::CallControl& control) override {
    const TensorSource source = Source(0, control.threads);
    const auto gather = [&source](int64_t begin, absl::Span<char> out) {
      source.slices.Copy(source.payload.begin + static_cast<std::size_t>(begin), out.size(), out.data());
    };
    absl::StatusOr<registry::InferenceResult> result =
        gathered_
            ? registry::Infer(registry(), layer(), x_->view(), request_.version(), control, y_->data())
            : registry::InferGathered(registry(), layer(), x_->view(), request_.version(), control, gather, y_->data());
    if (!result.ok()) return result.status();
    response_.set_version(result->version);
    response_.set_content_hash(std::move(result->content_hash));
    return absl::OkStatus();
  }

  absl::Status CheckNotLost() const override {
    if (absl::Status status = x_->CheckNotLost(); !status.ok()) return status;
    return y_->CheckNotLost();
  }

 private:
  const v1::InferRequest request_;
  const int64_t x_bytes_;
  std::optional<TensorInput> x_;
  // x is where view() says, not in the message.
  bool gathered_ = true;
  std::optional<TensorOutput> y_;
  v1::InferResponse response_;
};

class DenormalizeCall final : public TensorCall {
 public:
  DenormalizeCall(const TensorCallContext& context, v1::DenormalizeRequest request, ReceivedMessage message)
      : TensorCall(context, std::move(message)),
        request_(std::move(request)),
        y_bytes_(TensorBytes(request_.y(), payload(0))) {}

  absl::string_view layer() const override { return request_.layer(); }
  int64_t bytes() const override { return 2 * y_bytes_; }

  void WriteResult(wire::MessageWriter* writer) override {
    writer->AppendFields(response_);
    std::move(*x_).Write(v1::DenormalizeResponse::kXFieldNumber, writer);
  }

 protected:
  int64_t BufferBytes() const override {
    return BufferBytesFor(request_.y().has_shared_memory(), request_.has_x_shared_memory(), y_bytes_);
  }

  absl::Status Load(int threads) override {
    const TensorSource source = Source(0, threads);
    absl::StatusOr<TensorInput> y = TensorInput::Load(source, "y", request_.has_y(), request_.y());
    if (!y.ok()) return y.status();
    y_ = *std::move(y);
    absl::StatusOr<TensorOutput> x =
        MakeOutput(source, request_.has_x_shared_memory() ? &request_.x_shared_memory() : nullptr, &*y_);
    if (!x.ok()) return x.status();
    x_ = *std::move(x);
    return absl::OkStatus();
  }

  absl::Status Compute(const registry::CallControl& control) override {
    absl::StatusOr<registry::InferenceResult> result =
        registry::Denormalize(registry(), layer(), y_->view(), request_.version(), control, x_->data());
    if (!result.ok()) return result.status();
    response_.set_version(result->version);
    response_.set_content_hash(std::move(result->content_hash));
    return absl::OkStatus();
  }

  absl::Status CheckNotLost() const override {
    if (absl::Status status = y_->CheckNotLost(); !status.ok()) return status;
    return x_->CheckNotLost();
  }

 private:
  const v1::DenormalizeRequest request_;
  const int64_t y_bytes_;
  std::optional<TensorInput> y_;
  std::optional<TensorOutput> x_;
  v1::DenormalizeResponse response_;
};

}  // namespace

std::unique_ptr<TensorCall> NewTensorCall(const TensorCallContext& context, v1::InferRequest request,
                                          ReceivedMessage message) {
  return std::make_unique<InferCall>(context, std::move(request), std::move(message));
}

std::unique_ptr<TensorCall> NewTensorCall(const TensorCallContext& context, v1::DenormalizeRequest request,
                                          ReceivedMessage message) {
  return std::make_unique<DenormalizeCall>(context, std::move(request), std::move(message));
}

}  // namespace normd::service
