#include "client/cpp/src/chunked_call.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cpp/src/convert.h"
#include "client/cpp/src/memory.h"
#include "client/cpp/src/tensor_call.h"
#include "normd/v1/normalization_service.pb.h"
#include "proto/wire/message_slices.h"
#include "proto/wire/message_writer.h"
#include "proto/wire/split_message.h"

namespace normd::internal {
namespace {

// Of a chunk, in every message of both streams.
constexpr std::uint32_t kDataField = 2;
static_assert(v1::InferStreamRequest::kDataFieldNumber == kDataField);
static_assert(v1::TrainStepStreamRequest::kDataFieldNumber == kDataField);

// Chunks that wait to be sent, and chunks whose answers are awaited: enough to keep both directions busy.
constexpr std::size_t kMostQueued = 2;
constexpr std::size_t kMostUnanswered = 4;

// A stream that carries one tensor; blocks in its caller's thread. Not thread-safe.
template <typename Request, typename Response>
class ChunkedCall {
 public:
  ChunkedCall(Connection* connection, const std::string& method, absl::string_view layer, const CallOptions& options,
              std::string request_id)
      : connection_(connection), timeout_(connection->TimeoutOf(options)), request_id_(std::move(request_id)) {
    stream_ =
        connection->OpenStream(method, layer, timeout_,
                               {.received = [inbox = inbox_](const grpc::ByteBuffer& message) { inbox->Add(message); },
                                .sent = [inbox = inbox_] { inbox->Wake(); },
                                .ended = [inbox = inbox_](const grpc::Status& status) { inbox->End(status); }},
                               options.traceparent);
  }

  // Gives up whatever is not done.
  ~ChunkedCall() {
    stream_->Cancel();
    std::unique_lock<std::mutex> lock(inbox_->mutex);
    inbox_->changed.wait(lock, [this] { return inbox_->end.has_value(); });
  }

  // Sends the elements [offset, offset + size) that `source` gives, after the fields of `request`. Waits while too much
  // is on its way. False: the stream has ended.
  absl::StatusOr<bool> SendChunk(const Request& request, int64_t offset, std::size_t size, const ChunkSource& source) {
    {
      std::unique_lock<std::mutex> lock(inbox_->mutex);
      inbox_->changed.wait(lock, [this] { return inbox_->end.has_value() || stream_->queued() < kMostQueued; });
      if (inbox_->end.has_value()) return false;
    }
    const auto buffer = PooledMemory(size, &connection_->buffers());
    if (buffer == nullptr) return absl::ResourceExhaustedError(absl::StrCat("no memory for ", size, " bytes"));
    if (absl::Status status = source(offset, {buffer.get(), size}); !status.ok()) return status;
    wire::MessageWriter writer;
    writer.AppendFields(request);
    writer.AppendBytes(kDataField, Share({buffer.get(), size}, buffer));
    stream_->Send(writer.Finish());
    return true;
  }
  void CloseWrites() { stream_->CloseWrites(); }

  // The next message; blocks. Its chunk stands at `payload` in `slices`.
  struct Answer {
    wire::MessageSlices slices;
    Response response;
    wire::Payload payload;
  };
  // The stream's failure, if there is no next message.
  absl::StatusOr<Answer> Receive() {
    grpc::ByteBuffer message;
    {
      std::unique_lock<std::mutex> lock(inbox_->mutex);
      inbox_->changed.wait(lock, [this] { return inbox_->end.has_value() || !inbox_->messages.empty(); });
      if (inbox_->messages.empty()) {
        if (inbox_->end->ok()) return absl::InternalError("the server ended the stream before the last chunk");
        return connection_->StreamFailure(*inbox_->end, timeout_, request_id_);
      }
      message = std::move(inbox_->messages.front());
      inbox_->messages.pop_front();
    }
    Answer answer;
    answer.slices = wire::MessageSlices(message);
    wire::Payload payloads[wire::kMaxPayloads];
    if (!wire::SplitMessage(answer.slices, wire::kChunkPayloads, &answer.response, absl::MakeSpan(payloads)).ok()) {
      return absl::InternalError("the server's chunk cannot be read");
    }
    answer.payload = payloads[0];
    return answer;
  }

  // Waits for the stream's end, now that everything has come.
  absl::Status Finish() {
    std::unique_lock<std::mutex> lock(inbox_->mutex);
    inbox_->changed.wait(lock, [this] { return inbox_->end.has_value(); });
    return connection_->StreamFailure(*inbox_->end, timeout_, request_id_);
  }

  // Hands an answer's chunk of `size` bytes to the sink.
  absl::Status Deliver(const Answer& answer, int64_t offset, std::size_t size, const ChunkSink& sink) {
    if (answer.payload.size != size) {
      return absl::InternalError(
          absl::StrCat("the server answered a chunk of ", size, " bytes with ", answer.payload.size));
    }
    // Elements may lie astride the pieces and at any alignment.
    if (scratch_ == nullptr || scratch_size_ < size) {
      scratch_ = PooledMemory(size, &connection_->buffers());
      scratch_size_ = size;
    }
    if (scratch_ == nullptr) return absl::ResourceExhaustedError(absl::StrCat("no memory for ", size, " bytes"));
    answer.slices.Copy(answer.payload.begin, size, scratch_.get());
    return sink(offset, {scratch_.get(), size});
  }

 private:
  struct Inbox {
    void Add(const grpc::ByteBuffer& message) {
      const std::lock_guard<std::mutex> lock(mutex);
      messages.push_back(message);
      changed.notify_all();
    }
    void Wake() {
      const std::lock_guard<std::mutex> lock(mutex);
      changed.notify_all();
    }
    void End(const grpc::Status& status) {
      const std::lock_guard<std::mutex> lock(mutex);
      end = status;
      changed.notify_all();
    }

    std::mutex mutex;
    std::condition_variable changed;
    std::deque<grpc::ByteBuffer> messages;
    std::optional<grpc::Status> end;
  };

  Connection* const connection_;
  const absl::Duration timeout_;
  const std::string request_id_;
  const std::shared_ptr<Inbox> inbox_ = std::make_shared<Inbox>();
  std::shared_ptr<ByteStream> stream_;
  std::shared_ptr<char> scratch_;
  std::size_t scratch_size_ = 0;
};

// The tensor in chunks: all of `chunk` bytes but the last.
struct Cut {
  int64_t total = 0;
  int64_t chunk = 0;

  std::size_t SizeAt(int64_t offset) const { return static_cast<std::size_t>(std::min(chunk, total - offset)); }
};

absl::StatusOr<Cut> CutOf(absl::string_view layer, const ChunkedTensor& x) {
  const absl::StatusOr<std::size_t> total = CheckedBytesOf(x.shape, x.dtype);
  if (!total.ok()) return total.status();
  const auto element = static_cast<int64_t>(ElementBytes(x.dtype));
  if (*total == 0 || x.chunk_bytes < element) {
    return absl::InvalidArgumentError(
        absl::StrCat("layer '", layer, "': want a tensor with elements, and chunks of at least one"));
  }
  return Cut{static_cast<int64_t>(*total), x.chunk_bytes / element * element};
}

void Describe(const ChunkedTensor& x, v1::Tensor* out) {
  TensorView view;
  view.dtype = x.dtype;
  view.shape = x.shape;
  view.layout = x.layout;
  DescribeTensor(view, out);
}

// Sends the tensor and hands what is answered to `sink`, chunk by chunk. `first` goes before the first chunk;
// `on_answer` sees every answer before its chunk is delivered.
template <typename Request, typename Response, typename OnAnswer>
absl::Status Exchange(ChunkedCall<Request, Response>* call, const Cut& cut, const Request& first,
                      const ChunkSource& source, const ChunkSink& sink, OnAnswer&& on_answer) {
  const Request rest;
  int64_t sent = 0;
  std::size_t unanswered = 0;
  for (int64_t received = 0; received < cut.total;) {
    while (sent < cut.total && unanswered < kMostUnanswered) {
      const std::size_t size = cut.SizeAt(sent);
      const absl::StatusOr<bool> going = call->SendChunk(sent == 0 ? first : rest, sent, size, source);
      if (!going.ok()) return going.status();
      if (!*going) break;
      sent += static_cast<int64_t>(size);
      ++unanswered;
      if (sent == cut.total) call->CloseWrites();
    }
    const auto answer = call->Receive();
    if (!answer.ok()) return answer.status();
    const std::size_t size = cut.SizeAt(received);
    if (absl::Status status = on_answer(*answer); !status.ok()) return status;
    if (absl::Status status = call->Deliver(*answer, received, size, sink); !status.ok()) return status;
    received += static_cast<int64_t>(size);
    --unanswered;
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<InferResult> InferChunked(Connection* connection, absl::string_view layer, const ChunkedTensor& x,
                                         const ChunkSource& source, const ChunkSink& sink,
                                         const InferOptions& options) {
  const absl::StatusOr<Cut> cut = CutOf(layer, x);
  if (!cut.ok()) return cut.status();
  v1::InferStreamRequest first;
  first.mutable_call()->set_layer(layer.data(), layer.size());
  first.mutable_call()->set_version(options.version);
  Describe(x, first.mutable_call()->mutable_x());

  ChunkedCall<v1::InferStreamRequest, v1::InferStreamResponse> call(
      connection, "/normd.v1.NormalizationService/InferStream", layer, options, "");
  std::optional<InferResult> result;
  const absl::Status status = Exchange(&call, *cut, first, source, sink, [&](const auto& answer) {
    if (result.has_value()) return absl::OkStatus();
    if (!answer.response.has_result()) return absl::InternalError("the server's first chunk has no result");
    const v1::InferResponse& header = answer.response.result();
    result = InferResult{Tensor(x.dtype, x.shape, x.layout, nullptr, 0), header.version(), header.content_hash()};
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  if (absl::Status end = call.Finish(); !end.ok()) return end;
  return *std::move(result);
}

absl::StatusOr<TrainStepResult> TrainStepChunked(Connection* connection, absl::string_view layer,
                                                 const ChunkedTensor& x, const ChunkSource& source,
                                                 const ChunkSink& sink, const TrainStepOptions& options) {
  const absl::StatusOr<Cut> cut = CutOf(layer, x);
  if (!cut.ok()) return cut.status();
  TrainStepOptions settings = options;
  settings.omit_output = options.omit_output || !sink;
  settings.into = {};
  v1::TrainStepStreamRequest first;
  const std::string request_id = TrainStepFields(layer, settings, &connection->runtime(), first.mutable_call());
  Describe(x, first.mutable_call()->mutable_x());

  ChunkedCall<v1::TrainStepStreamRequest, v1::TrainStepStreamResponse> call(
      connection, "/normd.v1.NormalizationService/TrainStepStream", layer, options, request_id);
  const v1::TrainStepStreamRequest rest;
  for (int64_t sent = 0; sent < cut->total;) {
    const std::size_t size = cut->SizeAt(sent);
    const absl::StatusOr<bool> going = call.SendChunk(sent == 0 ? first : rest, sent, size, source);
    if (!going.ok()) return going.status();
    if (!*going) break;
    sent += static_cast<int64_t>(size);
  }
  if (settings.omit_output) call.CloseWrites();
  auto answer = call.Receive();
  if (!answer.ok()) return answer.status();
  if (!answer->response.has_result()) return absl::InternalError("the server's first message has no result");
  answer->response.mutable_result()->clear_y();
  absl::StatusOr<TrainStepResult> result = Take(answer->response.mutable_result(), Elements());
  if (!result.ok()) return result;
  if (!settings.omit_output) {
    result->y = Tensor(x.dtype, x.shape, x.layout, nullptr, 0);
    const absl::Status status =
        Exchange(&call, *cut, rest, source, sink, [](const auto& /*answer*/) { return absl::OkStatus(); });
    if (!status.ok()) return status;
  }
  if (absl::Status end = call.Finish(); !end.ok()) return end;
  return result;
}

}  // namespace normd::internal
