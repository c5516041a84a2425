#include <algorithm>
#include <cstring>
#include <optional>
#include <utility>

#include "server/registry/training.h"
#include "server/service/chunk_stream.h"
#include "server/service/streams.h"
#include "server/service/training_conversion.h"

namespace normd::service {
namespace {

class TrainStepStream final : public ChunkStream<v1::TrainStepStreamRequest, v1::TrainStepRequest> {
 public:
  TrainStepStream(grpc::CallbackServerContext* context, const TensorStreamContext& streams)
      : ChunkStream(context, "TrainStepStream", streams) {}

 private:
  absl::Status Begin(const v1::TrainStepRequest& call, const layer::TensorView& x) override {
    input_ = ToTrainStepInput(call);
    input_.x = x;
    wants_output_ = !call.omit_output();
    absl::StatusOr<registry::BatchAccumulator> batch =
        registry::BatchAccumulator::Create(*streams().call.registry, input_);
    if (!batch.ok()) return batch.status();
    batch_ = *std::move(batch);
    return absl::OkStatus();
  }

  absl::Status Take(wire::Buffer chunk, int threads) override {
    if (normalizer_.has_value()) {
      normalizer_->Next(absl::MakeSpan(chunk.data(), chunk.size()), threads);
      AnswerPart(nullptr, std::move(chunk));
      return absl::OkStatus();
    }
    if (absl::Status status = Add(absl::MakeConstSpan(chunk.data(), chunk.size()), threads); !status.ok()) {
      return status;
    }
    return batch_->remaining_bytes() > 0 ? absl::OkStatus() : Commit(threads);
  }

  // The kernels take whole rows; what is left of a chunk waits for its rest.
  absl::Status Add(absl::Span<const char> chunk, int threads) {
    const auto row_bytes = static_cast<std::size_t>(batch_->row_bytes());
    if (row_fill_ > 0) {
      const std::size_t missing = std::min(chunk.size(), row_bytes - row_fill_);
      std::memcpy(row_.data() + row_fill_, chunk.data(), missing);
      row_fill_ += missing;
      chunk.remove_prefix(missing);
      if (row_fill_ < row_bytes) return absl::OkStatus();
      batch_->Add(absl::MakeConstSpan(row_.data(), row_bytes), threads);
      row_fill_ = 0;
    }
    const std::size_t whole = chunk.size() / row_bytes * row_bytes;
    if (whole > 0) batch_->Add(chunk.subspan(0, whole), threads);
    chunk.remove_prefix(whole);
    if (chunk.empty()) return absl::OkStatus();
    if (!row_) {
      wire::BufferPool* const buffers = streams().call.memory.buffers;
      row_ = buffers->Allocate(row_bytes);
      const std::string what = absl::StrCat(layer::LayerPrefix(input_.layer), "one index of x's outermost extent has ",
                                            row_bytes, " bytes, which must be in memory together");
      if (!row_ && batch_->row_bytes() > buffers->budget_bytes()) {
        return absl::ResourceExhaustedError(
            absl::StrCat(what, ": --memory-budget is ", buffers->budget_bytes(), " bytes"));
      }
      if (!row_) return streams().executor->Overloaded(what);
    }
    std::memcpy(row_.data(), chunk.data(), chunk.size());
    row_fill_ = chunk.size();
    return absl::OkStatus();
  }

  absl::Status Commit(int threads) {
    row_ = {};
    registry::CallControl control;
    control.threads = threads;
    control.check_alive = [this] { return CheckAlive(); };
    absl::StatusOr<registry::BatchAccumulator::Result> result =
        batch_->Commit(*streams().call.registry, input_, control);
    absl::Status stored;
    while (result.ok()) {
      stored = registry::WaitFor(result->step.stored);
      if (!store::IsConflict(stored)) break;
      // Another server was faster.
      result = batch_->Commit(*streams().call.registry, input_, control);
    }
    if (!result.ok()) return result.status();
    if (!stored.ok()) return stored;
    normalizer_ = std::move(result->normalizer);
    v1::TrainStepResponse response = ToProto(result->step);
    if (wants_output_) *response.mutable_y() = ToProto(input_.x);
    AnswerPart(&response, {});
    return absl::OkStatus();
  }

  int64_t element_bytes() const override { return batch_->element_bytes(); }
  int64_t remaining_bytes() const override {
    // The bytes of the batch whose rows are not complete have come nevertheless.
    return normalizer_.has_value() ? normalizer_->remaining_bytes()
                                   : batch_->remaining_bytes() - static_cast<int64_t>(row_fill_);
  }
  bool complete() const override {
    return normalizer_.has_value() && (!wants_output_ || normalizer_->remaining_bytes() == 0);
  }

  registry::TrainStepInput input_;
  bool wants_output_ = true;
  std::optional<registry::BatchAccumulator> batch_;
  // The beginning of a row whose rest has not come yet.
  wire::Buffer row_;
  std::size_t row_fill_ = 0;
  // After the step.
  std::optional<registry::ChunkNormalizer> normalizer_;
};

}  // namespace

TensorStream* NewTrainStepStream(grpc::CallbackServerContext* context, const TensorStreamContext& streams) {
  return new TrainStepStream(context, streams);
}

}  // namespace normd::service
