#include <optional>
#include <utility>

#include "server/registry/inference.h"
#include "server/service/chunk_stream.h"
#include "server/service/streams.h"

namespace normd::service {
namespace {

class InferStream final : public ChunkStream<v1::InferStreamRequest, v1::InferRequest> {
 public:
  InferStream(grpc::CallbackServerContext* context, const TensorStreamContext& streams)
      : ChunkStream(context, "InferStream", streams) {}

 private:
  absl::Status Begin(const v1::InferRequest& call, const layer::TensorView& x) override {
    absl::StatusOr<registry::ChunkedInference> inference =
        registry::InferInChunks(*streams().call.registry, call.layer(), x, call.version());
    if (!inference.ok()) return inference.status();
    normalizer_ = std::move(inference->normalizer);
    first_.emplace();
    *first_->mutable_y() = ToProto(x);
    first_->set_version(inference->result.version);
    first_->set_content_hash(std::move(inference->result.content_hash));
    return absl::OkStatus();
  }

  absl::Status Take(wire::Buffer chunk, int threads) override {
    normalizer_->Next(absl::MakeSpan(chunk.data(), chunk.size()), threads);
    AnswerPart(first_.has_value() ? &*first_ : nullptr, std::move(chunk));
    first_.reset();
    return absl::OkStatus();
  }

  int64_t element_bytes() const override { return normalizer_->element_bytes(); }
  int64_t remaining_bytes() const override { return normalizer_->remaining_bytes(); }
  bool complete() const override { return remaining_bytes() == 0; }

  std::optional<registry::ChunkNormalizer> normalizer_;
  // Goes with the first answer.
  std::optional<v1::InferResponse> first_;
};

}  // namespace

TensorStream* NewInferStream(grpc::CallbackServerContext* context, const TensorStreamContext& streams) {
  return new InferStream(context, streams);
}

}  // namespace normd::service
