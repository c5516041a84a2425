#ifndef NORMD_SERVER_SERVICE_CHUNK_STREAM_H_
#define NORMD_SERVER_SERVICE_CHUNK_STREAM_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/layer/layer_error.h"
#include "server/layer/layer_name.h"
#include "server/service/tensor_conversion.h"
#include "server/service/tensor_stream.h"

namespace normd::service {

// A stream whose messages are chunks of one tensor, the first of them with the call. Request and Call are, for example,
// v1::InferStreamRequest and v1::InferRequest.
template <typename Request, typename Call>
class ChunkStream : public TensorStream {
 public:
  // A server that stops waits for it, as for any other call.
  ChunkStream(grpc::CallbackServerContext* context, absl::string_view method, const TensorStreamContext& streams)
      : TensorStream(context, method, nullptr), streams_(streams), in_flight_(streams.observer) {}

 protected:
  // Takes the call, of whose x only the data is missing. Once, before any chunk.
  virtual absl::Status Begin(const Call& call, const layer::TensorView& x) = 0;
  // Takes the next whole elements, aligned, of a tensor that has them. Not empty.
  virtual absl::Status Take(wire::Buffer chunk, int threads) = 0;
  virtual int64_t element_bytes() const = 0;
  // Bytes of the tensor that have not come yet.
  virtual int64_t remaining_bytes() const = 0;
  // Nothing more is to come, nor to be answered.
  virtual bool complete() const = 0;

  const TensorStreamContext& streams() const { return streams_; }

  // Answers with a part of the response type: `first` (may be null) and `chunk` (may be empty).
  void AnswerPart(const google::protobuf::MessageLite* first, wire::Buffer chunk) {
    wire::MessageWriter writer;
    if (first != nullptr) {
      writer.AppendFields(*first);
      // InferStreamResponse.result and TrainStepStreamResponse.result.
      writer.WrapIn(1, Request());
    }
    // .data of both.
    if (chunk) writer.AppendBytes(2, std::move(chunk).ToSlice());
    response_bytes_ += static_cast<int64_t>(writer.size());
    Answer(writer.Finish());
  }

 private:
  void OnMessage(wire::MessageSlices message) final {
    request_bytes_ += static_cast<int64_t>(message.size());
    wire::Buffer chunk;
    absl::Status status = WithoutExceptions([&] { return Decode(message, &chunk); });
    if (!status.ok()) return EndCall(status);
    if (!chunk) return complete() ? EndCall(absl::OkStatus()) : ReadNext();
    const auto bytes = static_cast<int64_t>(2 * chunk.size());
    status = streams_.executor->Run(bytes, [this, owned = std::move(chunk)](int threads) mutable {
      absl::Status taken = CheckAlive();
      if (taken.ok()) taken = WithoutExceptions([&] { return Take(std::move(owned), threads); });
      if (!taken.ok() || complete()) return EndCall(taken);
      ReadNext();
    });
    if (!status.ok()) EndCall(status);
  }

  absl::Status OnLastMessage() final {
    absl::Status status =
        absl::InvalidArgumentError(begun_ ? absl::StrCat(layer::LayerPrefix(layer_), "the stream ended ",
                                                         remaining_bytes(), " bytes before the end of x")
                                          : std::string("the stream ended before a call"));
    Report(status);
    return status;
  }

  absl::Status Decode(const wire::MessageSlices& message, wire::Buffer* chunk) {
    const wire::BufferPool::Reservation received = streams_.call.memory.buffers->Reserve(message.size());
    if (!received) return NoMemory(message.size());
    Request request;
    wire::Payload payloads[wire::kMaxPayloads];
    absl::Status status = wire::SplitMessage(message, wire::kChunkPayloads, &request, absl::MakeSpan(payloads));
    if (!status.ok()) return status;
    if (request.has_call() == begun_) {
      return absl::InvalidArgumentError(begun_ ? "a call stands in a later message, want it in the first only"
                                               : "the first message holds no call");
    }
    if (!begun_) {
      status = BeginCall(request.call());
      if (!status.ok()) return status;
    }
    const std::size_t size = payloads[0].size;
    if (size == 0) return absl::OkStatus();
    if (size % static_cast<std::size_t>(element_bytes()) != 0) {
      return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(layer_), "a chunk of ", size,
                                                     " bytes, want whole elements of ", element_bytes(), " bytes"));
    }
    if (static_cast<int64_t>(size) > remaining_bytes()) {
      return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(layer_), "a chunk of ", size,
                                                     " bytes, but only ", remaining_bytes(), " bytes of x are left"));
    }
    *chunk = streams_.call.memory.buffers->Allocate(size);
    if (!*chunk) return NoMemory(size);
    message.Copy(payloads[0].begin, size, chunk->data());
    return absl::OkStatus();
  }

  absl::Status BeginCall(const Call& call) {
    layer_ = call.layer();
    if constexpr (requires { call.request_id(); }) request_id_ = call.request_id();
    if (absl::Status status = layer::ValidateName(layer_); !status.ok()) return status;
    absl::Status allowed = CheckCall(streams_.observer->CallerOf(context()), *RoleOf(method()), layer_);
    if (!allowed.ok()) return allowed;
    if (!call.has_x()) return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(layer_), "x is missing"));
    if (!call.x().data().empty()) {
      return absl::InvalidArgumentError(absl::StrCat(layer::LayerPrefix(layer_), "x has ", call.x().data().size(),
                                                     " bytes of data in the call, want them in the chunks"));
    }
    if (call.x().has_shared_memory() || call.has_y_shared_memory()) {
      return absl::InvalidArgumentError(absl::StrCat(
          layer::LayerPrefix(layer_), "x or y stands in shared memory, where it need not be sent in chunks"));
    }
    absl::StatusOr<layer::TensorView> x = ToTensorView(layer_, "x", call.x(), {});
    if (!x.ok()) return x.status();
    if (absl::Status status = Begin(call, *x); !status.ok()) return status;
    begun_ = true;
    return absl::OkStatus();
  }

  absl::Status NoMemory(std::size_t bytes) const {
    return streams_.executor->Overloaded(absl::StrCat("no memory for a chunk of ", bytes, " bytes (--memory-budget)"));
  }

  void EndCall(const absl::Status& status) {
    Report(status);
    End(status);
  }

  void Report(const absl::Status& status) {
    streams_.observer->OnCall(CallRecord{.method = method(),
                                         .layer = layer_,
                                         .request_id = request_id_,
                                         .context = context(),
                                         .request_bytes = request_bytes_,
                                         .response_bytes = response_bytes_,
                                         .status = status,
                                         .duration = absl::FromChrono(std::chrono::steady_clock::now() - start_)});
  }

  const TensorStreamContext& streams_;
  const CallInFlight in_flight_;
  const std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
  bool begun_ = false;
  std::string layer_;
  std::string request_id_;
  int64_t request_bytes_ = 0;
  int64_t response_bytes_ = 0;
};

}  // namespace normd::service

#endif  // NORMD_SERVER_SERVICE_CHUNK_STREAM_H_
